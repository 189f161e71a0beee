//! Nexodus proxy rules to Envoy resources, and the server that delivers them.
//!
//! The core is pure and synchronous; each step is usable alone:
//!
//! 1. [`rules`]: the rule grammar (`tcp:443:10.10.100.152:8443`), the content of a rules file, and the set of rules of one node.
//! 2. [`translate`]: a rule set and [`translate::Settings`] become Envoy resources.
//! 3. [`snapshot`]: those resources by type, each with a version that is a hash of its content.
//! 4. [`subscription`]: what one xDS stream wants, has and gets next. State of the world and delta.
//!
//! [`ads`] is the shell around it: tonic, tokio, one task for each stream. [`names`] looks up the names in the rules.
//!
//! On top of it are the commands: [`standalone`] serves an Envoy that others run; [`nexd`] runs a node (this server and an Envoy), remembers rules ([`state`]) and
//! listens to [`nexctl`] ([`control`]). Both can take rules from a file ([`rules_file`]).

pub mod ads;
mod argv;
pub mod control;
mod duration;
mod lock;
pub mod names;
pub mod nexctl;
pub mod nexd;
pub mod rules;
pub mod rules_file;
pub mod snapshot;
pub mod standalone;
pub mod state;
pub mod subscription;
pub mod translate;
