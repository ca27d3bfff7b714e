//! A real NAS: ocserv, to which openconnect connects, with the toolbox between it and FreeRADIUS.
//!
//! Its Start has no address: that comes in the first Interim-Update.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use cloakway_testing::{have, skip};
use running::radius::{FreeRadius, HOME_SECRET, LETS_IN, Program, free_port, program};
use running::{SECRET, Toolbox, eventually};
use serde_json::json;

/// A NAS with everything that it speaks to, and a subscriber, in namespaces of their own.
struct Lab {
    isp: String,
    subscriber: String,
}

impl Lab {
    fn new() -> Self {
        let id = std::process::id();
        let lab = Self { isp: format!("rt{id}i"), subscriber: format!("rt{id}u") };
        let (isp, subscriber) = (&lab.isp, &lab.subscriber);
        for words in [
            format!("netns add {isp}"),
            format!("netns add {subscriber}"),
            format!("-n {isp} link set lo up"),
            format!("-n {isp} link add i0 type veth peer name u0 netns {subscriber}"),
            format!("-n {isp} addr add 10.78.0.1/24 dev i0"),
            format!("-n {subscriber} addr add 10.78.0.2/24 dev u0"),
            format!("-n {isp} link set i0 up"),
            format!("-n {subscriber} link set u0 up"),
        ] {
            let output = Command::new("ip").args(words.split(' ')).output().unwrap();
            assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        }
        lab
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for space in [&self.subscriber, &self.isp] {
            // ocserv has processes beside its first one.
            if let Ok(output) = Command::new("ip").args(["netns", "pids", space]).output() {
                for pid in String::from_utf8_lossy(&output.stdout).lines() {
                    let _ = Command::new("kill").args(["-9", pid]).output();
                }
            }
            let _ = Command::new("ip").args(["netns", "del", space]).output();
        }
    }
}

#[test]
fn the_address_of_a_real_nas_comes_in_the_first_interim_update_and_goes_with_its_stop() {
    if !nix::unistd::geteuid().is_root() {
        return skip("namespaces need root");
    }
    let all = [("ocserv", "ocserv"), ("openconnect", "openconnect"), ("freeradius", "freeradius")];
    if !all.into_iter().all(|(name, package)| have(name, package)) {
        return;
    }
    let lab = Lab::new();
    let isp = Some(lab.isp.as_str());
    let home = FreeRadius::start_in(isp, [127, 0, 0, 1].into(), "", LETS_IN);
    let folder = tempfile::tempdir().unwrap();
    // Processes of ocserv that are nobody in particular look at files here.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let dir = folder.path().display().to_string();
    let file = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    let issued = rcgen::generate_simple_self_signed(vec!["10.78.0.1".to_owned()]).unwrap();
    file("ocserv.pem", issued.cert.pem());
    file("ocserv.key", issued.signing_key.serialize_pem());
    file("home.secret", HOME_SECRET.to_owned());
    let access: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let tables = format!(
        "[radius.proxy]\nlisten-authentication = [\"{access}\"]\nwait-ms = 10000\n[[radius.proxy.homes]]\nname = \"home\"\n\
         accounting = \"{}\"\nauthentication = \"{}\"\nsecret-file = \"{dir}/home.secret\"\n",
        home.accounting, home.authentication
    );
    file("servers", format!("127.0.0.1 {SECRET}\n"));
    let toolbox = Toolbox::start_at(isp, folder, "", "", &tables);
    let path = |name: &str| toolbox.path(name);
    std::fs::write(
        path("radcli.conf"),
        format!(
            "nas-identifier ocserv\nauthserver {access}\nacctserver {}\nservers {dir}/servers\n\
             dictionary /etc/radcli/dictionary\ndefault_realm\nradius_timeout 20\nradius_retries 3\nbindaddr *\n",
            toolbox.radius
        ),
    )
    .unwrap();
    std::fs::write(
        path("ocserv.conf"),
        format!(
            "auth = \"radius[config={dir}/radcli.conf,groupconfig=false]\"\nacct = \"radius[config={dir}/radcli.conf]\"\n\
             listen-host = 10.78.0.1\ntcp-port = 4443\nrun-as-user = nobody\nrun-as-group = daemon\n\
             socket-file = {dir}/ocserv.sock\nserver-cert = {dir}/ocserv.pem\nserver-key = {dir}/ocserv.key\n\
             isolate-workers = false\nmax-clients = 16\nkeepalive = 300\ndevice = vpns\nipv4-network = 198.51.100.64\n\
             ipv4-netmask = 255.255.255.192\nstats-report-time = 5\nuse-occtl = false\ncookie-timeout = 300\n\
             auth-timeout = 120\npid-file = {dir}/ocserv.pid\n"
        ),
    )
    .unwrap();
    let out = |name: &str| std::fs::File::create(path(name)).unwrap();
    let read = |name: &str| std::fs::read_to_string(path(name)).unwrap_or_default();
    let (log, errors) = (out("ocserv.log"), out("ocserv.errors"));
    let mut command = program(isp, "ocserv");
    let _nas =
        Program::start(command.args(["-f", "-d", "1", "-c"]).arg(path("ocserv.conf")).stdout(log).stderr(errors));
    eventually("ocserv is there", || {
        let listening = program(isp, "ss").args(["-Hltn", "sport = :4443"]).output().unwrap();
        (!listening.stdout.is_empty()).then_some(())
    });
    let mut command = program(Some(&lab.subscriber), "openconnect");
    command.args(["--protocol=anyconnect", "--user=alice@isp.example", "--passwd-on-stdin", "--script=/bin/true"]);
    command.args(["--no-dtls", "--no-system-trust"]).arg(format!("--cafile={dir}/ocserv.pem"));
    command.arg("https://10.78.0.1:4443").stdout(out("client.log")).stderr(out("client.errors")).stdin(Stdio::piped());
    let mut client = command.spawn().unwrap();
    std::io::Write::write_all(&mut client.stdin.take().unwrap(), b"hello\n").unwrap();
    let said = || format!("{}{}{}{}", read("client.log"), read("client.errors"), read("ocserv.errors"), home.log());
    let address = eventually("the client has an address", || {
        assert!(client.try_wait().unwrap().is_none(), "{}", said());
        let text = read("client.log") + &read("client.errors");
        let (_, behind) = text.split_once("Configured as ")?;
        behind.split_once(',').map(|(address, _)| address.to_owned())
    });
    let bindings = || toolbox.show("bindings").unwrap();
    let of = |prefix: &str| bindings().as_array().unwrap().iter().find(|of| of["prefix"] == json!(prefix)).cloned();
    let bound = eventually("the toolbox knows who is there", || of(&format!("{address}/32")));
    assert_eq!((&bound["subscriber"], &bound["state"]), (&json!("alice@isp.example"), &json!("bound")));
    assert_eq!(bound["nas"], json!("ocserv"));
    let delegated = of("2001:db8:5100:6400::/56").unwrap();
    assert_eq!(delegated["subscriber"], json!("alice@isp.example"), "what the Accept alone said");
    let heard = home.heard();
    assert!(heard[0].contains(" Start ") && !heard[0].contains(&address), "{heard:?}");
    assert!(heard[1].contains(" Interim-Update ") && heard[1].contains(&address), "{heard:?}");
    // As a user leaves who presses control-C: the NAS is told.
    let id = nix::unistd::Pid::from_raw(i32::try_from(client.id()).unwrap());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
    client.wait().unwrap();
    eventually("the Stop comes", || (bindings() == json!([])).then_some(()));
    assert!(home.heard().last().unwrap().contains(" Stop "), "{:?}", home.heard());
}
