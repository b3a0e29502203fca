//! Parse, run, exit.

fn main() -> std::process::ExitCode {
    l402t::cmd::main(std::env::args_os().collect()).into()
}
