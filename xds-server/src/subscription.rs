//! The state of one xDS stream.
