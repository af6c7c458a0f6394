//! The `opencmg` binary: hands its arguments to [`opencmg::cli`].

fn main() -> std::process::ExitCode {
    opencmg::cli::run(std::env::args_os())
}
