//! `mptcpd`: decides which paths Multipath TCP connections use on a Linux host.

extern crate self as mptcpd;

#[cfg_attr(not(test), expect(dead_code, reason = "nothing calls it yet"))]
mod cli;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "nothing calls it yet"))]
mod config;
mod names;
pub mod plugin;
#[cfg(test)]
mod random;
pub mod settings;
pub mod types;

#[path = "../pm/mod.rs"]
mod pm;

/// Runs the daemon and says with which code the process is to end.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
