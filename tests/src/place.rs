//! Where an Envoy of one's own is run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::identity::Identity;

/// A directory with everything one Envoy needs: a wg-quick file, a runtime directory, its configuration.
pub struct Place {
    directory: TempDir,
}

impl Place {
    /// A directory for the Envoy with this identity, which knows one peer.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(own: &Identity, peer: &Identity) -> Place {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = own.interface_section() + &own.address_line() + &peer.peer_section();
        let path = directory.path().join("wg0.conf");
        fs::write(&path, config).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("an own file");
        let run = directory.path().join("run");
        fs::create_dir(&run).expect("a directory");
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).expect("an own directory");
        Place { directory }
    }

    /// The path of something in it.
    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// The socket of Envoy's admin interface.
    pub fn admin(&self) -> PathBuf {
        self.directory.path().join("run/admin.sock")
    }

    /// The file of this name in envoy-config/ with the edits its comments ask for, and some more.
    ///
    /// # Panics
    /// When there is nothing to edit.
    #[track_caller]
    pub fn configuration(&self, name: &str, edits: &[(&str, &str)]) -> PathBuf {
        let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy-config").join(name);
        let mut text =
            fs::read_to_string(&original).unwrap_or_else(|error| panic!("{}: {error}", original.display()));
        let (config, run) = (self.path("wg0.conf"), self.path("run"));
        for (from, to) in
            [("/etc/nexodus/wg0.conf", config.as_str()), ("/run/nexodus", &run)].iter().chain(edits)
        {
            assert!(text.contains(from), "{name} has no {from} to edit");
            text = text.replace(from, to);
        }
        let edited = self.directory.path().join(name);
        fs::write(&edited, text).expect("a file");
        edited
    }
}
