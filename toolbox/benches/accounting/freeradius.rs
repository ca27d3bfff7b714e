//! FreeRADIUS with its module for PostgreSQL, and a PostgreSQL of its own, both as Debian ships them.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::ours::{SECRET, folder, until};

const SQL: &str = "/etc/freeradius/3.0/mods-config/sql/main/postgresql";

/// Whether everything is here; says so when it is not.
pub(crate) fn possible() -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        Some("root")
    } else if programs().is_none() {
        Some("postgresql")
    } else if !Path::new("/usr/sbin/freeradius").exists() {
        Some("freeradius")
    } else if !Path::new(SQL).join("schema.sql").exists() {
        Some("freeradius-postgresql")
    } else {
        None
    };
    if let Some(missing) = missing {
        println!("SKIPPED: the part with FreeRADIUS takes {missing}");
    }
    missing.is_none()
}

/// Where Debian has the programs of a version of PostgreSQL.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    versions.flatten().map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists())
}

pub(crate) struct FreeRadius {
    server: Child,
    database: Child,
    pub(crate) accounting: SocketAddr,
    // Goes last, when nobody writes there any more.
    folder: TempDir,
}

/// A command as the user that a database may be.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl FreeRadius {
    pub(crate) fn start() -> Self {
        let bin = programs().unwrap();
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        // Others have to get to what is theirs.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let data = path("database");
        std::fs::create_dir(&data).unwrap();
        let postgres = nix::unistd::User::from_name("postgres").unwrap().unwrap();
        chown(&data, Some(postgres.uid.as_raw()), Some(postgres.gid.as_raw())).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
        // Its socket is where only we look.
        let socket = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        let at = socket.keep();
        chown(&at, Some(postgres.uid.as_raw()), Some(postgres.gid.as_raw())).unwrap();
        must(as_postgres(&bin.join("initdb")).arg("-D").arg(&data).args(["-A", "trust", "-E", "UTF8", "--locale=C"]));
        let log = std::fs::File::create(path("database.log")).unwrap();
        let mut command = as_postgres(&bin.join("postgres"));
        command.arg("-D").arg(&data).args(["-h", "", "-k"]).arg(&at);
        let database = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let ask = |words: &[&str]| {
            let mut command = Command::new(bin.join("psql"));
            command.arg("-h").arg(&at).args(["-U", "postgres", "-q", "-v", "ON_ERROR_STOP=1"]).args(words);
            command
        };
        until("PostgreSQL is there", || ask(&["-c", "select 1"]).output().unwrap().status.success());
        must(&mut ask(&["-c", "create database radius"]));
        must(&mut ask(&["-d", "radius", "-f", &format!("{SQL}/schema.sql")]));

        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(path("radiusd.conf"), config(folder.path(), &at, port)).unwrap();
        let out = std::fs::File::create(path("out")).unwrap();
        let mut command = Command::new("freeradius");
        command.args(["-f", "-l", "stdout", "-d"]).arg(folder.path());
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let server = command.spawn().unwrap();
        let read = || std::fs::read_to_string(path("out")).unwrap_or_default();
        until("FreeRADIUS is there", || read().contains("Ready to process requests"));
        Self { server, database, accounting: ([127, 0, 0, 1], port).into(), folder }
    }
}

impl Drop for FreeRadius {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        // Fast shutdown: its processes go with it.
        let id = i32::try_from(self.database.id()).unwrap();
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGINT);
        let _ = self.database.wait();
        let config = std::fs::read_to_string(self.folder.path().join("radiusd.conf")).unwrap_or_default();
        let socket = config.lines().find_map(|line| line.trim().strip_prefix("# socket ").map(str::to_owned));
        if let Some(socket) = socket {
            let _ = std::fs::remove_dir_all(socket);
        }
    }
}

/// As many threads and connections as Debian's configuration has, its queries, and accounting that goes nowhere else.
fn config(dir: &Path, socket: &Path, port: u16) -> String {
    let (dir, socket) = (dir.display(), socket.display());
    format!(
        r#"# socket {socket}
prefix = /usr
name = radiusd
libdir = /usr/lib/freeradius
logdir = {dir}
raddbdir = {dir}
run_dir = {dir}
modconfdir = /etc/freeradius/3.0/mods-config
pidfile = {dir}/pid
max_request_time = 30
max_requests = 16384
log {{
    destination = stdout
    auth = no
}}
security {{
    allow_core_dumps = no
    status_server = yes
}}
thread pool {{
    start_servers = 5
    max_servers = 32
    min_spare_servers = 3
    max_spare_servers = 10
    max_requests_per_server = 0
    auto_limit_acct = no
}}
modules {{
    expr {{
    }}
    sql {{
        dialect = "postgresql"
        driver = "rlm_sql_postgresql"
        radius_db = "host={socket} dbname=radius user=postgres"
        acct_table1 = "radacct"
        acct_table2 = "radacct"
        postauth_table = "radpostauth"
        authcheck_table = "radcheck"
        groupcheck_table = "radgroupcheck"
        authreply_table = "radreply"
        groupreply_table = "radgroupreply"
        usergroup_table = "radusergroup"
        client_table = "nas"
        read_clients = no
        delete_stale_sessions = yes
        pool {{
            start = 5
            min = 3
            max = 32
            spare = 10
            uses = 0
            retry_delay = 30
            lifetime = 0
            idle_timeout = 60
        }}
        group_attribute = "SQL-Group"
        $INCLUDE {SQL}/queries.conf
    }}
}}
client bench {{
    ipaddr = 127.0.0.1
    secret = "{SECRET}"
}}
server default {{
    listen {{
        type = acct
        ipaddr = 127.0.0.1
        port = {port}
    }}
    preacct {{
        update request {{
            Acct-Unique-Session-Id := "%{{md5:%{{User-Name}},%{{Acct-Session-ID}},%{{NAS-IP-Address}}}}"
        }}
    }}
    accounting {{
        sql
    }}
}}
"#
    )
}
