//! `mptcpd`: decides which paths Multipath TCP connections use on a Linux host.
//!
//! The daemon is the whole of this library; the program calls [`main`]. Public is what a path manager
//! needs ([`plugin`], [`settings`], [`types`]), and what the kernel says and is asked, as values and as
//! bytes ([`event`], [`command`], [`wire`]), for tests and for whoever wants to fuzz it.

extern crate self as mptcpd;

mod app;
mod cli;
pub mod command;
mod config;
mod connections;
mod daemon;
pub mod diag;
mod engine;
pub mod event;
mod exit;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod json;
pub mod kit;
mod listing;
mod liveness;
mod log;
mod names;
mod network;
pub mod plugin;
#[cfg(test)]
mod random;
mod rules;
mod selection;
pub mod settings;
mod state_file;
mod sys;
pub mod types;
pub mod wire;

#[path = "../pm/mod.rs"]
mod pm;

pub use app::main;
