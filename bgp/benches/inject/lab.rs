//! Namespaces, processes, BIRD and our speaker, as the bench uses them.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const SENDER: &str = "h-inj-sender";
pub(crate) const RECEIVER: &str = "h-inj-receiver";
pub(crate) const MILLION: u32 = 1_000_000;

pub(crate) fn run(command: &str) -> bool {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output();
    output.is_ok_and(|output| output.status.success())
}

/// Two namespaces, gone when dropped.
pub(crate) struct Namespaces;

impl Namespaces {
    pub(crate) fn new() -> Option<Self> {
        let namespaces = Self;
        for name in [SENDER, RECEIVER] {
            run(&format!("ip netns del {name}"));
            if !run(&format!("ip netns add {name}")) {
                return None;
            }
        }
        let made = [
            format!("ip link add inj0 netns {SENDER} type veth peer name inj1 netns {RECEIVER}"),
            format!("ip -n {SENDER} addr add 192.0.2.1/30 dev inj0"),
            format!("ip -n {RECEIVER} addr add 192.0.2.2/30 dev inj1"),
            format!("ip -n {SENDER} link set inj0 up"),
            format!("ip -n {RECEIVER} link set inj1 up"),
        ];
        made.iter().all(|command| run(command)).then_some(namespaces)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [SENDER, RECEIVER] {
            run(&format!("ip netns del {name}"));
        }
    }
}

/// A process in a namespace, killed when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn spawn(namespace: &str, command: &mut Vec<String>) -> Self {
        let mut all = vec!["netns".to_owned(), "exec".to_owned(), namespace.to_owned()];
        all.append(command);
        Self(Command::new("ip").args(all).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Seconds of processor time.
    pub(crate) fn cpu(&self) -> f64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let of = |thread: std::fs::DirEntry| {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        };
        threads.filter_map(|thread| of(thread.ok()?)).sum::<f64>() / 1e9
    }

    /// Resident memory, in MB. `ip netns exec` becomes the program, so the child is it.
    pub(crate) fn memory_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(400), "{what}: not within 400 s");
        std::thread::sleep(Duration::from_micros(500));
    }
}

pub(crate) struct Bird {
    pub(crate) process: Process,
    control: UnixStream,
}

impl Bird {
    pub(crate) fn start(namespace: &str, folder: &Path, name: &str, config: &str) -> Self {
        let (file, socket) = (folder.join(format!("{name}.conf")), folder.join(format!("{name}.ctl")));
        std::fs::write(&file, config).unwrap();
        let command = ["bird", "-f", "-c", file.to_str().unwrap(), "-s", socket.to_str().unwrap()];
        let process = Process::spawn(namespace, &mut command.map(str::to_owned).to_vec());
        let control = until("BIRD's control socket", || UnixStream::connect(&socket).ok());
        let mut bird = Self { process, control };
        bird.reply();
        bird
    }

    pub(crate) fn reply(&mut self) -> String {
        let (mut text, mut bytes) = (String::new(), [0; 4096]);
        loop {
            let count = self.control.read(&mut bytes).unwrap();
            assert!(count > 0, "BIRD hung up: {text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
            // The last line of a reply has its code followed by a space, or is the code alone.
            let last = text.trim_end().lines().last().unwrap_or_default();
            if text.ends_with('\n')
                && last.len() >= 4
                && last.as_bytes()[..4].iter().all(u8::is_ascii_digit)
                && last.as_bytes().get(4) != Some(&b'-')
            {
                return text;
            }
        }
    }

    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.control.write_all(format!("{command}\n").as_bytes()).unwrap();
        self.reply()
    }

    /// Routes in the table `master4`.
    pub(crate) fn routes(&mut self) -> u32 {
        let text = self.ask("show route table master4 count");
        let count = text.split(" of ").nth(1).and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }

    /// Seconds until it has `count` routes, and how much of that went by with less than 1 % missing.
    pub(crate) fn seconds_until(&mut self, start: Instant, count: u32, from: u32) -> (f64, f64) {
        let near = if count > from { count - (count - from) / 100 } else { count + (from - count) / 100 };
        let mut almost = None;
        until("the routes at BIRD", || {
            let now = self.routes();
            if almost.is_none() && (if count > from { now >= near } else { now <= near }) {
                almost = Some(start.elapsed());
            }
            (now == count).then_some(())
        });
        let all = start.elapsed();
        (all.as_secs_f64(), (all - almost.unwrap_or(all)).as_secs_f64())
    }

    pub(crate) fn has_session(&mut self) -> bool {
        self.ask("show protocols session1").contains("Established")
    }
}

pub(crate) fn receiver(folder: &Path) -> Bird {
    let config = "router id 192.0.2.2;\nprotocol device {}\nprotocol bgp session1 {\n local 192.0.2.2 as 64500;\n neighbor 192.0.2.1 as 64500;\n passive on;\n hold time 90;\n ipv4 { import all; export none; };\n}\n";
    Bird::start(RECEIVER, folder, "receiver", config)
}

pub(crate) fn host(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + n)
}

pub(crate) struct Speaker {
    pub(crate) process: Process,
    pub(crate) api: UnixStream,
    pub(crate) answers: BufReader<UnixStream>,
}

impl Speaker {
    /// In its namespace, with BIRD in the other as its peer.
    pub(crate) fn start(folder: &Path) -> Self {
        let peer = "[[peers]]\nname = \"bird\"\nremote-as = 64500\naddress = \"192.0.2.2\"\nhold-time-s = 90\n";
        Self::with(folder, Some(SENDER), peer)
    }

    /// With `peers` and what else is to be in its configuration, in `namespace`, or in this one.
    pub(crate) fn with(folder: &Path, namespace: Option<&str>, peers: &str) -> Self {
        let path = |name: &str| -> PathBuf { folder.join(name) };
        let _ = std::fs::remove_file(path("journal"));
        let text = format!(
            "admin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"192.0.2.1\"\n{peers}[inject]\napi-socket = {:?}\n\
             journal = {:?}\nallow = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n",
            path("admin"),
            path("api"),
            path("journal")
        );
        std::fs::write(path("speaker.toml"), text).unwrap();
        let binary = env!("CARGO_BIN_EXE_bgp-speaker").to_owned();
        let config = path("speaker.toml").to_str().unwrap().to_owned();
        let _ = std::fs::remove_file(path("api"));
        let process = match namespace {
            Some(name) => Process::spawn(name, &mut vec![binary, "run".to_owned(), "--config".to_owned(), config]),
            None => {
                let mut command = Command::new(binary);
                command.args(["run", "--config", &config]).stdout(Stdio::null()).stderr(Stdio::null());
                Process(command.spawn().unwrap())
            }
        };
        let (api, answers) = Self::client(folder);
        Self { process, api, answers }
    }

    pub(crate) fn client(folder: &Path) -> (UnixStream, BufReader<UnixStream>) {
        let api = until("the API", || UnixStream::connect(folder.join("api")).ok());
        let answers = BufReader::new(api.try_clone().unwrap());
        (api, answers)
    }

    pub(crate) fn ask(&mut self, request: &str) -> String {
        self.api.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(line.starts_with("{\"ok\""), "{line}");
        line
    }
}

pub(crate) fn stream(set: &str, replace: bool, prefixes: impl Iterator<Item = u32>) -> String {
    let mut text = format!(
        "{{\"stream\":{{\"set\":\"{set}\",\"replace\":{replace}}}}}\n{{\"next-hop\":\"192.0.2.1\",\"communities\":[\"64500:1\"]}}\n"
    );
    for n in prefixes {
        let _ = writeln!(text, "{}/32", host(n));
    }
    text.push_str(".\n");
    text
}

/// The middle one, and the one that a hundredth exceeds.
pub(crate) fn percentiles(values: Vec<f64>) -> (f64, f64) {
    let values = sort(values);
    (values[values.len() / 2], values[values.len() * 99 / 100])
}

pub(crate) fn sort(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}
