//! BIRD, asked over its control socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::{Lab, Process, until};

/// Takes everything from 192.0.2.1, in a session called `session1`.
const RECEIVER: &str = "router id 192.0.2.2;\nprotocol device {}\nprotocol bgp session1 {\n local 192.0.2.2 as 64500;\n neighbor 192.0.2.1 as 64500;\n passive on;\n hold time 90;\n ipv4 { import all; export none; };\n}\n";

pub(crate) struct Bird {
    pub(crate) process: Process,
    control: UnixStream,
}

/// BIRD in the receiver's namespace, as [`RECEIVER`] has it.
pub(crate) fn receiver(lab: &Lab) -> Bird {
    Bird::start(lab, &lab.receiver(), "receiver", RECEIVER)
}

impl Bird {
    pub(crate) fn start(lab: &Lab, namespace: &str, name: &str, config: &str) -> Self {
        let file = lab.write(&format!("{name}.conf"), config);
        let socket = lab.folder().join(format!("{name}.ctl"));
        let _ = std::fs::remove_file(&socket);
        let process = Process::spawn(namespace, &["bird", "-f", "-c", &file, "-s", socket.to_str().unwrap()]);
        let control = until("BIRD's control socket", || UnixStream::connect(&socket).ok());
        let mut bird = Self { process, control };
        bird.reply();
        bird
    }

    fn reply(&mut self) -> String {
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

    /// Routes in the table `master4`, which BIRD counts one by one.
    pub(crate) fn routes(&mut self) -> u32 {
        let text = self.ask("show route table master4 count");
        let count = text.split(" of ").nth(1).and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }

    /// Routes that `protocol` has brought and that are there: a counter, so that asking delays nothing.
    pub(crate) fn imported(&mut self, protocol: &str) -> u32 {
        let text = self.ask(&format!("show protocols all {protocol}"));
        let count = text.split("Routes:").nth(1).and_then(|rest| rest.trim_start().split(' ').next());
        // A channel that is down shows none.
        count.map_or(0, |count| count.parse().unwrap_or_else(|_| panic!("{text}")))
    }

    /// Seconds until `session1` has brought `count` routes, and how much of that went by with less than 1 % missing.
    pub(crate) fn seconds_until(&mut self, start: Instant, count: u32, from: u32) -> (f64, f64) {
        let near = if count > from { count - (count - from) / 100 } else { count + (from - count) / 100 };
        let mut almost = None;
        until("the routes at BIRD", || {
            let now = self.imported("session1");
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
