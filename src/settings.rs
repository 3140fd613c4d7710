//! A path manager's own settings, with the place of every value for errors.

/// A table of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Settings {}

/// What is wrong with a setting, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError(pub String);
