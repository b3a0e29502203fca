//! Parse, run, exit.

fn main() -> std::process::ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    // Before there is a thread, a file or a key that it would have to give up.
    #[cfg(feature = "wasm")]
    if arguments.get(1).is_some_and(|argument| argument == l402t::bounty::wasm::ARGUMENT) {
        return l402t::bounty::wasm::serve().into();
    }
    l402t::cmd::main(arguments).into()
}
