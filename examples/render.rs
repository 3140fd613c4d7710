//! Writes the files to be installed beside the binary, with the paths and defaults of this build:
//! `cargo run --release --example render -- DIR`

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

const FILES: &[(&str, &str)] = &[
    ("mptcp.service", include_str!(concat!(env!("OUT_DIR"), "/mptcp.service"))),
    ("mptcpd.conf", include_str!(concat!(env!("OUT_DIR"), "/mptcpd.conf"))),
    ("mptcpd.8", include_str!(concat!(env!("OUT_DIR"), "/mptcpd.8"))),
    ("mptcpd.conf.5", include_str!(concat!(env!("OUT_DIR"), "/mptcpd.conf.5"))),
];

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: cargo run --release --example render -- DIR");
        return ExitCode::from(64);
    };
    match write_all(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write to {}: {error}", Path::new(&directory).display());
            ExitCode::FAILURE
        }
    }
}

fn write_all(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (name, text) in FILES {
        let path = directory.join(name);
        fs::write(&path, text)?;
        println!("{}", path.display());
    }
    Ok(())
}
