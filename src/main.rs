//! The `opencmg` binary: hands its arguments to [`opencmg::cli`].

#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    opencmg::cli::run(std::env::args_os())
}
