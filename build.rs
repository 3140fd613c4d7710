//! Takes the install paths and built-in defaults from the environment, fills them into the man pages
//! and the shipped files, and checks that every path manager has its feature.

use std::path::Path;
use std::{env, fs};

/// Variable of the environment, what it is when unset. Each is `env!(NAME)` in the crate and
/// `@name@` (lower case, without `MPTCPD_`) in the templates.
const VARIABLES: &[(&str, &str)] = &[
    ("MPTCPD_SYSCONFDIR", "/etc"),
    ("MPTCPD_RUNSTATEDIR", "/run"),
    ("MPTCPD_LIBEXECDIR", "/usr/libexec"),
    ("MPTCPD_DEFAULT_PM", "addr_adv"),
    ("MPTCPD_DEFAULT_LOG", "stderr"),
];

/// Template, and the file of that text with the variables filled in, under `OUT_DIR`.
const TEMPLATES: &[(&str, &str)] = &[
    ("man/mptcpd.8.in", "mptcpd.8"),
    ("man/mptcpd.conf.5.in", "mptcpd.conf.5"),
    ("packaging/mptcpd.conf.in", "mptcpd.conf"),
    ("packaging/mptcp.service.in", "mptcp.service"),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let values: Vec<(String, String)> = VARIABLES.iter().map(|(name, default)| variable(name, default)).collect();
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    for (template, name) in TEMPLATES {
        println!("cargo::rerun-if-changed={template}");
        let text = fs::read_to_string(template).unwrap_or_else(|error| panic!("cannot read {template}: {error}"));
        let path = Path::new(&out).join(name);
        fs::write(&path, fill(text, &values)).unwrap_or_else(|error| panic!("cannot write {path:?}: {error}"));
    }
    every_path_manager_has_a_feature();
}

fn variable(name: &str, default: &str) -> (String, String) {
    println!("cargo::rerun-if-env-changed={name}");
    let value = env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned());
    if name.ends_with("DIR") && !value.starts_with('/') {
        panic!("{name}={value}: not an absolute path");
    }
    if name == "MPTCPD_DEFAULT_LOG" && !["stderr", "syslog", "journal", "null"].contains(&value.as_str()) {
        panic!("{name}={value}: must be one of stderr, syslog, journal, null");
    }
    println!("cargo::rustc-env={name}={value}");
    (format!("@{}@", name.trim_start_matches("MPTCPD_").to_lowercase()), value)
}

fn fill(mut text: String, values: &[(String, String)]) -> String {
    for (place, value) in values {
        text = text.replace(place, value);
    }
    let version = env::var("CARGO_PKG_VERSION").expect("cargo sets CARGO_PKG_VERSION");
    text.replace("@version@", &version)
}

fn every_path_manager_has_a_feature() {
    println!("cargo::rerun-if-changed=pm");
    println!("cargo::rerun-if-changed=Cargo.toml");
    let manifest = fs::read_to_string("Cargo.toml").expect("cargo runs the build script beside Cargo.toml");
    let list = fs::read_to_string("pm/mod.rs").unwrap_or_else(|error| panic!("cannot read pm/mod.rs: {error}"));
    for entry in fs::read_dir("pm").unwrap_or_else(|error| panic!("cannot read pm: {error}")) {
        let path = entry.unwrap_or_else(|error| panic!("cannot read pm: {error}")).path();
        let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        if name == "mod" || path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        assert!(manifest.contains(&format!("\npm-{name} = ")), "pm/{name}.rs: no feature pm-{name} in Cargo.toml");
        assert!(list.contains(&format!("mod {name};")), "pm/{name}.rs: not listed in pm/mod.rs");
    }
}
