//! The configuration: files that are parted by the byte 0xff, which no UTF-8 has. The first is `mptcpd.conf`, TOML or
//! a key file; of every other the first byte says which it is: `0` to `9` a drop-in, a small letter the
//! settings of a path manager.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mptcpd::fuzzing;
use mptcpd_fuzz::within;

/// Directories of this process.
static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = std::env::temp_dir().join(format!("mptcpd-fuzz-{}", std::process::id()));
    for directory in ["mptcpd.conf.d", "plugins", "printed"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    root
});

fuzz_target!(|data: &[u8]| {
    let mut files = data.split(|byte| *byte == 0xff);
    fs::write(ROOT.join("mptcpd.conf"), files.next().unwrap_or_default()).unwrap();
    let (mut written, mut plugin_dir) = (Vec::new(), None);
    for (kind, text) in files.filter_map(|file| file.split_first()) {
        let path = match kind {
            b'0'..=b'9' => ROOT.join(format!("mptcpd.conf.d/{}.toml", char::from(*kind))),
            b'a' => ROOT.join("plugins/announce.toml"),
            b'h' => ROOT.join("plugins/handover.toml"),
            b'n' => ROOT.join("plugins/ndiffports.toml"),
            _ => ROOT.join(format!("plugins/{}.toml", char::from(*kind).escape_default())),
        };
        if path.starts_with(ROOT.join("plugins")) {
            plugin_dir = Some(ROOT.join("plugins"));
        }
        fs::write(&path, text).unwrap();
        written.push(path);
    }
    within(1_000_000 + 1000 * data.len(), || {
        fuzzing::configuration(&ROOT, plugin_dir.as_deref(), &ROOT.join("printed/mptcpd.conf"));
    });
    for path in written {
        // Of a file given twice only one is there.
        let _ = fs::remove_file(path);
    }
});
