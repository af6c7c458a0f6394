//! The `opencmg` binary: hands its arguments to [`opencmg::cli`].

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    opencmg::cli::run(std::env::args_os())
}
