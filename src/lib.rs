//! `mptcpd`: decides which paths Multipath TCP connections use on a Linux host.

extern crate self as mptcpd;

pub mod command;
mod daemon;
mod engine;
pub mod event;
mod exit;
#[allow(dead_code)] // until the daemon's loop logs
mod log;
mod network;
pub mod plugin;
mod rules;
pub mod settings;
mod state_file;
mod sys;
pub mod types;
pub mod wire;

#[path = "../pm/mod.rs"]
mod pm;

/// Runs the daemon and says with which code the process is to end.
#[must_use]
pub fn main() -> std::process::ExitCode {
    use slog::Drain;
    let setup = || {
        let mut settings = settings::Settings::default();
        let managers = plugin::registry()
            .unwrap_or_default()
            .iter()
            .map(|p| (p.build)(&mut settings).unwrap_or_else(|_| panic!()))
            .collect();
        let args: Vec<String> = std::env::args().collect();
        let has = |f: &str| args.iter().any(|a| a == f);
        let mut notify = types::NotifyFlags(7);
        if has("--check-route") {
            notify = types::NotifyFlags(15)
        }
        let d = slog_term::FullFormat::new(slog_term::PlainDecorator::new(std::io::stderr())).build();
        let log = if has("--debug") {
            slog::Logger::root(std::sync::Mutex::new(d).fuse(), slog::o!())
        } else {
            slog::Logger::root(
                slog::LevelFilter::new(std::sync::Mutex::new(d).fuse(), slog::Level::Info).fuse(),
                slog::o!(),
            )
        };
        daemon::Setup {
            policy: engine::Policy {
                rules: rules::Rules { notify, flags: types::EndpointFlags::SUBFLOW },
                managers,
                debug: has("--debug"),
            },
            remove_on_stop: has("--remove"),
            log,
        }
    };
    match daemon::run(setup(), Box::new(move || Ok(setup()))) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mptcpd: {e}");
            e.code.into()
        }
    }
}
