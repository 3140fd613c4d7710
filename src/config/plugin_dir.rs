//! The plugin directory: plugins are inside the program, `NAME.toml` there holds their settings.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use super::file::Directory;
use super::{ConfigError, layer};
use crate::names;
use crate::plugin::Plugin;
use crate::settings::Source;
use crate::settings::tree::{self, Table};

/// What a plugin directory says.
#[derive(Debug)]
pub(super) struct Contents {
    /// Name of the plugin, the file, and the file as a table.
    pub(super) tables: Vec<(&'static str, Arc<Source>, Table)>,
    /// About what is there and of no use.
    pub(super) notice: Option<String>,
}

pub(super) fn read(directory: &Directory, plugins: &[&'static Plugin]) -> Result<Contents, ConfigError> {
    let mut tables = Vec::new();
    for name in directory.files("toml") {
        let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
        let path = directory.path().join(name);
        let plugin = layer::find(plugins, &stem)
            .map_err(|error| ConfigError::file(format!("{}: settings of an {error}", names::shown(&path))))?;
        if let Some(source) = directory.read(name)? {
            let table = tree::parse(&source)?;
            tables.push((plugin.name, source, table));
        }
    }
    Ok(Contents { tables, notice: not_loaded(directory) })
}

fn not_loaded(directory: &Directory) -> Option<String> {
    let objects: Vec<_> = directory.files("so").map(OsStr::to_string_lossy).collect();
    if objects.is_empty() {
        return None;
    }
    let path = names::shown(directory.path());
    let list: String = objects.join(", ").chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Some(format!("{path}: path managers are inside the program, not loaded: {list}"))
}
