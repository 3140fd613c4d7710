//! Takes the install paths and built-in defaults from the environment, fills them into the man pages
//! and the shipped files, and checks that every path manager has its feature.

use std::path::Path;
use std::process::Command;
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
    the_default_path_manager_is_there();
    link_the_unwinder_statically();
    leave_out_unwind_tables();
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

/// A path manager of another crate may be the default; one of ours that is left out may not.
fn the_default_path_manager_is_there() {
    let Ok(name) = env::var("MPTCPD_DEFAULT_PM") else { return };
    let enabled = env::var_os(format!("CARGO_FEATURE_PM_{}", name.to_uppercase())).is_some();
    if enabled || name.is_empty() {
        return;
    }
    assert!(
        !Path::new("pm").join(format!("{name}.rs")).exists(),
        "MPTCPD_DEFAULT_PM={name}: enable the feature pm-{name}"
    );
    println!("cargo::warning=MPTCPD_DEFAULT_PM={name}: not one of this crate, so another has to bring it");
}

/// Puts the unwinder, which the standard library wants for backtraces, into the program instead of loading
/// libgcc_s.so.1 at every start: that takes a tenth of a millisecond, and 125 kB where nothing else
/// needs the library. Where the linker has no static one, everything stays as it was.
fn link_the_unwinder_statically() {
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let is_static = env::var("CARGO_CFG_TARGET_FEATURE").is_ok_and(|f| f.split(',').any(|f| f == "crt-static"));
    if !is("CARGO_CFG_TARGET_OS", "linux") || !is("CARGO_CFG_TARGET_ENV", "gnu") || is_static {
        return;
    }
    let linker = env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".to_owned());
    let answer = Command::new(linker).arg("-print-file-name=libgcc_eh.a").output();
    // A linker that does not have it answers with the name alone.
    let found = answer.is_ok_and(|answer| answer.status.success() && answer.stdout.starts_with(b"/"));
    if found {
        let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
        let directory = Path::new(&out).join("unwinder");
        // A linker script under the name that rustc asks for (ld(1), INPUT).
        let written = fs::create_dir_all(&directory)
            .and_then(|()| fs::write(directory.join("libgcc_s.so"), "INPUT(-lgcc_eh -lgcc)\n"));
        written.unwrap_or_else(|error| panic!("cannot write below {directory:?}: {error}"));
        println!("cargo::rustc-link-search=native={}", directory.display());
    }
}

/// Builds for small systems carry no tables for stack traces, an eighth of the program: a panic aborts, and
/// without symbols a trace says little. What packages distribute keeps them, for core dumps.
fn leave_out_unwind_tables() {
    let has = |feature: &str| env::var_os(feature).is_some();
    let small = !has("CARGO_FEATURE_TERM") && !has("CARGO_FEATURE_JOURNALD");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if !small || !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let script = Path::new(&out).join("no-unwind-tables.ld");
    let sections = "*(.eh_frame) *(.eh_frame_hdr) *(.gcc_except_table .gcc_except_table.*)";
    let text = format!("SECTIONS {{ /DISCARD/ : {{ {sections} }} }} INSERT AFTER .rodata;\n");
    fs::write(&script, text).unwrap_or_else(|error| panic!("cannot write {script:?}: {error}"));
    println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{}", script.display());
}
