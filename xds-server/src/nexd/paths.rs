//! Where things are when no flag says so: upstream's places, and our own beside them. Pure.

use std::path::{Path, PathBuf};

/// The control socket of a nexd that runs as root.
pub const ROOT_SOCKET: &str = "/var/run/nexd.sock";

/// What the defaults depend on.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The effective user.
    pub root: bool,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
}

impl Environment {
    /// This process's.
    #[must_use]
    pub fn current() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            root: rustix::process::geteuid().is_root(),
            home: path("HOME"),
            xdg_runtime_dir: path("XDG_RUNTIME_DIR").filter(|path| path.is_absolute()),
        }
    }

    /// `/var/lib/nexd`, or `$HOME/.nexodus`. Nothing for a user without a home.
    #[must_use]
    pub fn state_dir(&self) -> Option<PathBuf> {
        if self.root { Some("/var/lib/nexd".into()) } else { self.dot_nexodus() }
    }

    /// `/var/run/nexd.sock`, or `$HOME/.nexodus/nexd.sock`. Nothing for a user without a home.
    #[must_use]
    pub fn socket(&self) -> Option<PathBuf> {
        if self.root {
            Some(ROOT_SOCKET.into())
        } else {
            self.dot_nexodus().map(|path| path.join("nexd.sock"))
        }
    }

    /// `/run/nexd`, or `$XDG_RUNTIME_DIR/nexd`, or `<state-dir>/run`.
    #[must_use]
    pub fn runtime_dir(&self, state_dir: &Path) -> PathBuf {
        if self.root {
            return "/run/nexd".into();
        }
        match &self.xdg_runtime_dir {
            Some(path) => path.join("nexd"),
            None => state_dir.join("run"),
        }
    }

    /// Where nexctl looks for nexd: upstream's places, then the user's own.
    #[must_use]
    pub fn sockets(&self) -> Vec<PathBuf> {
        let own = self.socket().filter(|_| !self.root);
        [ROOT_SOCKET.into(), "nexd.sock".into()].into_iter().chain(own).collect()
    }

    fn dot_nexodus(&self) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(".nexodus"))
    }
}

/// The directories in which the module is looked for: beside the executable, then in `../lib/nexodus`.
#[must_use]
pub fn module_dirs(executable: &Path) -> Vec<PathBuf> {
    let Some(directory) = executable.parent() else { return Vec::new() };
    let library = directory.parent().map(|prefix| prefix.join("lib/nexodus"));
    std::iter::once(directory.to_owned()).chain(library).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(root: bool, home: Option<&str>, xdg: Option<&str>) -> Environment {
        Environment { root, home: home.map(PathBuf::from), xdg_runtime_dir: xdg.map(PathBuf::from) }
    }

    #[test]
    fn root() {
        let root = environment(true, Some("/root"), Some("/run/user/0"));
        assert_eq!(root.state_dir(), Some("/var/lib/nexd".into()));
        assert_eq!(root.socket(), Some("/var/run/nexd.sock".into()));
        assert_eq!(root.runtime_dir(Path::new("/s")), PathBuf::from("/run/nexd"));
        assert_eq!(root.sockets(), ["/var/run/nexd.sock", "nexd.sock"].map(PathBuf::from));
    }

    #[test]
    fn users() {
        let user = environment(false, Some("/home/a"), Some("/run/user/7"));
        assert_eq!(user.state_dir(), Some("/home/a/.nexodus".into()));
        assert_eq!(user.socket(), Some("/home/a/.nexodus/nexd.sock".into()));
        assert_eq!(user.runtime_dir(Path::new("/s")), PathBuf::from("/run/user/7/nexd"));
        let own = "/home/a/.nexodus/nexd.sock";
        assert_eq!(user.sockets(), ["/var/run/nexd.sock", "nexd.sock", own].map(PathBuf::from));

        let bare = environment(false, None, None);
        assert_eq!((bare.state_dir(), bare.socket()), (None, None));
        assert_eq!(bare.runtime_dir(Path::new("/s")), PathBuf::from("/s/run"));
        assert_eq!(bare.sockets().len(), 2);
    }

    #[test]
    fn modules() {
        let expected = ["/opt/bin", "/opt/lib/nexodus"].map(PathBuf::from);
        assert_eq!(module_dirs(Path::new("/opt/bin/nexd")), expected);
        assert_eq!(module_dirs(Path::new("/nexd")), [PathBuf::from("/")]);
    }
}
