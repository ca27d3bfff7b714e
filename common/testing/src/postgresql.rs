//! A PostgreSQL server of a test's own: Debian's program with data in a folder of its own, as the user `postgres` where the
//! test is root, heard at a socket in that folder alone.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::{have, skip};

const PATIENCE: Duration = Duration::from_secs(120);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A server with a database `test`, gone on drop.
#[derive(Debug)]
pub struct Postgresql {
    folder: PathBuf,
    programs: PathBuf,
    server: Option<Child>,
    /// Whom it runs as, where that is another one.
    user: Option<(u32, u32)>,
    /// Where it takes connections under TLS.
    tls: Option<u16>,
}

/// Where Debian has the programs of a version of PostgreSQL.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    versions.flatten().map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists())
}

fn id(words: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(words).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

impl Postgresql {
    /// Starts a server, if this machine has the programs; else the test is skipped.
    ///
    /// # Panics
    /// When the server does not come up.
    #[must_use]
    pub fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            skip("there is no PostgreSQL here (Debian: apt install postgresql)");
            return None;
        };
        let root = id(&["-u"]) == Some(0);
        if root && !have("setpriv", "util-linux") {
            return None;
        }
        let user = match (root, id(&["-u", "postgres"]), id(&["-g", "postgres"])) {
            (false, ..) => None,
            (true, Some(user), Some(group)) => Some((user, group)),
            (true, ..) => {
                skip("there is no user postgres here (Debian: apt install postgresql)");
                return None;
            }
        };
        let name = format!("cloakway-pg-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).expect("a folder");
        let mut server = Self { folder, programs, server: None, user, tls: None };
        std::fs::set_permissions(&server.folder, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        let data = server.folder.join("data");
        std::fs::create_dir(&data).expect("a folder");
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).expect("permissions");
        for path in [&server.folder, &data] {
            if let Some((user, group)) = user {
                chown(path, Some(user), Some(group)).expect("an owner");
            }
        }
        let mut initdb = server.command("initdb");
        let output = initdb
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
            .output();
        let output = output.expect("initdb");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        server.run();
        server.ask("postgres", "CREATE DATABASE test");
        Some(server)
    }

    /// Starts it anew, so that it takes connections by TCP on loopback too, and those under TLS alone; gives how to connect.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn secure(&mut self, certificate: &str, key: &str) -> String {
        self.kill();
        let data = self.folder.join("data");
        for (name, text) in [
            ("server.crt", certificate),
            ("server.key", key),
            ("pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 trust\n"),
        ] {
            let path = data.join(name);
            std::fs::write(&path, text).expect("a file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
            if let Some((user, group)) = self.user {
                chown(&path, Some(user), Some(group)).expect("an owner");
            }
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("a free port").port();
        self.tls = Some(port);
        self.run();
        format!("host=127.0.0.1 port={port} dbname=test user=postgres")
    }

    /// Starts the server, after [`Postgresql::kill`] again.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn run(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            // After a kill its memory is in use until the last of its processes has ended: then it is started again.
            let ended = self.server.as_mut().is_none_or(|server| server.try_wait().is_ok_and(|ended| ended.is_some()));
            if ended {
                self.server = Some(self.spawn());
            }
            if self.psql("postgres", "SELECT 1").output().expect("psql").status.success() {
                return;
            }
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < end, "PostgreSQL is not there: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn spawn(&self) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).expect("a log");
        let mut command = self.command("postgres");
        let listen = if self.tls.is_some() { "127.0.0.1" } else { "" };
        command.arg("-D").arg(self.folder.join("data")).args(["-h", listen, "-k"]).arg(&self.folder);
        if let Some(port) = self.tls {
            command.args(["-p", &port.to_string(), "-c", "ssl=on"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("postgres")
    }

    /// `kill -9` of all its processes, as a machine that dies.
    ///
    /// # Panics
    /// When it was not running.
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("it runs");
        let children = format!("/proc/{0}/task/{0}/children", server.id());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        let _ = server.kill();
        for child in children.split_whitespace() {
            let _ = Command::new("kill").args(["-9", child]).stderr(Stdio::null()).status();
        }
        let _ = server.wait();
    }

    /// How to connect, as libpq has it.
    #[must_use]
    pub fn connection(&self) -> String {
        format!("host={} dbname=test user=postgres", self.folder.display())
    }

    /// What psql prints for a statement.
    ///
    /// # Panics
    /// When it fails.
    pub fn ask(&self, database: &str, statement: &str) -> String {
        let output = self.psql(database, statement).output().expect("psql");
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn psql(&self, database: &str, statement: &str) -> Command {
        let mut command = Command::new(self.programs.join("psql"));
        command.arg("-h").arg(&self.folder).args(["-U", "postgres", "-d", database, "-qAt", "-v", "ON_ERROR_STOP=1"]);
        command.args(["-c", statement]).stdin(Stdio::null());
        if let Some(port) = self.tls {
            command.args(["-p", &port.to_string()]);
        }
        command
    }

    fn command(&self, program: &str) -> Command {
        let program: &Path = &self.programs.join(program);
        let mut command = match self.user {
            None => Command::new(program),
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={user}")).arg(format!("--regid={group}"));
                command.arg("--clear-groups").arg(program);
                command
            }
        };
        command.current_dir(&self.folder);
        command
    }
}

impl Drop for Postgresql {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.kill();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
