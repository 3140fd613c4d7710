//! The daemon; everything is in the library.

fn main() -> std::process::ExitCode {
    mptcpd::main()
}
