//! A script written for ExaBGP, under ExaBGP and under us in its place: a BIRD that hears it holds the same.

mod two_hosts;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::command::eventually;
use netns_tests::lab::Lab;
use netns_tests::{may_make_namespaces, stories};

const BOUND: Duration = Duration::from_secs(60);

const BIRD: &str = r#"
router id 192.0.2.2;
log stderr all;
protocol device { }
protocol direct { ipv4; ipv6; }
protocol bgp sender {
    local 192.0.2.2 as 64500;
    neighbor 192.0.2.1 as 64500;
    direct;
    hold time 9;
    passive on;
    connect delay time 1;
    error wait time 1, 2;
    ipv4 { import all; export none; };
    ipv6 { import all; export none; };
}
"#;

const EXABGP: &str = "process script { run /bin/sh {{run}}/script.sh {{run}}/exabgp; encoder text; }
neighbor 192.0.2.2 {
    router-id 192.0.2.1;
    local-address 192.0.2.1;
    local-as 64500;
    peer-as 64500;
    hold-time 9;
    family { ipv4 unicast; ipv6 unicast; }
    api { processes [ script ]; }
}
";

const SPEAKER: &str = r#"
admin-socket = "{{run}}/admin"
[speaker]
local-as = 64500
router-id = "192.0.2.1"
[[peers]]
name = "bird"
address = "192.0.2.2"
local-address = "192.0.2.1"
remote-as = 64500
[inject]
journal = "{{run}}/journal"
api-socket = "{{run}}/api"
allow = ["10.0.0.0/8", "2001:db8::/32"]
[[inject.processes]]
name = "script"
run = ["/bin/sh", "{{run}}/script.sh", "{{run}}/speaker"]
"#;

/// What the script says at once; then, when it is let, what follows. How many routes BIRD has after each part, and what it
/// says of them.
const PARTS: [(&[&str], usize, &[&str]); 2] = [
    (
        &[
            "announce route 10.0.0.0/24 next-hop 192.0.2.1",
            "announce route 10.0.1.0/24 next-hop self",
            "announce route 10.0.2.7 next-hop 192.0.2.1 med 5 local-preference 200 origin incomplete",
            "announce route 10.0.3.0/24 next-hop 192.0.2.1 as-path [ 64501 4200000000 ] community [ 64500:1 no-export ]",
            "announce route 10.0.4.0/24 next-hop 192.0.2.1 extended-community [ target:64500:1 origin:64500:2 ]",
            "announce route 10.0.5.0/24 next-hop 192.0.2.1 large-community [ 64500:1:2 64500:3:4 ]",
            "announce route 10.0.8.0/22 next-hop 192.0.2.1 split /24",
            "announce route 2001:db8:1::/48 next-hop 2001:db8::1 community no-peer",
            "announce attributes next-hop 192.0.2.1 med 9 nlri 10.1.0.0/24 10.1.1.0/24 10.1.2.0/24",
            "neighbor 192.0.2.2 announce route 10.2.0.0/24 next-hop 192.0.2.1",
            "neighbor 192.0.2.99 announce route 10.2.3.0/24 next-hop 192.0.2.1",
            "announce route 10.9.1.0/24 next-hop 192.0.2.1 med x",
            "announce route 10.4.0.0/24 next-hop 192.0.2.1",
        ],
        16,
        &["10.4.0.0/24", "10.0.2.7/32", "(64500, 3, 4", "2001:db8:1::/48"],
    ),
    (
        &[
            "withdraw route 10.0.0.0/24 next-hop 192.0.2.1",
            "withdraw attributes next-hop 192.0.2.1 med 9 nlri 10.1.0.0/24 10.1.1.0/24",
            "announce route 10.0.2.7 next-hop 192.0.2.1 med 6",
            "withdraw route 2001:db8:1::/48 next-hop 2001:db8::1",
            "withdraw route 10.77.0.0/24 next-hop 192.0.2.1",
            "announce route 10.5.0.0/24 next-hop 192.0.2.1",
        ],
        13,
        &["10.5.0.0/24", "10.1.2.0/24", "BGP.med: 6"],
    ),
];

/// Prints each part, and writes what it is answered to `$1.answers`; the second part waits for the file `$1.go`.
fn script() -> String {
    let [first, second] =
        PARTS.map(|(lines, _, _)| lines.iter().map(|line| format!("echo '{line}'\n")).collect::<String>());
    let answers: usize = PARTS.iter().map(|(lines, _, _)| lines.len()).sum();
    format!(
        "{first}while [ ! -e \"$1.go\" ]; do sleep 0.05; done\n{second}n=0\n\
         while [ $n -lt {answers} ] && read word; do\n\
         case \"$word\" in done|error) echo $word >> \"$1.answers\"; n=$((n + 1));; esac\ndone\n\
         while read word; do :; done\n"
    )
}

/// What BIRD holds, without the times.
fn table(lab: &Lab) -> Result<String> {
    let said = two_hosts::birdc(lab, "show route all protocol sender")?;
    let line = |line: &str| match (line.split_once('['), line.split_once("]")) {
        (Some((before, _)), Some((_, after))) if line.contains("[sender ") => format!("{before}{after}"),
        // ExaBGP sorts communities.
        _ if line.contains("community:") => {
            let (name, list) = line.split_once(": ").unwrap_or((line, ""));
            let mut items: Vec<&str> = list.trim_end_matches(')').split(") ").collect();
            items.sort_unstable();
            format!("{name}: {items:?}")
        }
        _ => line.to_owned(),
    };
    // A block a route, in an order of its own.
    let mut blocks: Vec<String> = Vec::new();
    for text in said.lines().filter(|line| !line.starts_with("BIRD") && !line.starts_with("Table")) {
        match blocks.last_mut().filter(|_| text.starts_with('\t')) {
            Some(block) => *block += &format!("\n{}", line(text)),
            None => blocks.push(line(text)),
        }
    }
    blocks.sort();
    Ok(blocks.join("\n"))
}

/// Starts the script under `process`, and takes down what BIRD holds after each part, and what the script was answered.
fn told(lab: &Lab, process: &str, program: &[&str]) -> Result<(Vec<String>, String)> {
    let run = lab.run_directory();
    let mut command = lab.command("speaker", program)?;
    command.env("exabgp.api.cli", "false").env("exabgp.daemon.user", "root");
    lab.spawn(process, command)?;
    let mut tables = Vec::new();
    for (index, (_, count, words)) in PARTS.iter().enumerate() {
        if index > 0 {
            fs::write(run.join(format!("{process}.go")), "")?;
        }
        tables.push(eventually(BOUND, "BIRD has all of the part", || {
            let now = table(lab)?;
            // Neither sends in the order of the script.
            ensure!(now.matches("BGP.origin").count() == *count, "{now}\n{}", lab.log(process));
            for word in *words {
                ensure!(now.contains(word), "no {word} in {now}");
            }
            Ok(now)
        })?);
    }
    let lines: usize = PARTS.iter().map(|(lines, _, _)| lines.len()).sum();
    let answers = eventually(BOUND, "every line is answered", || {
        let answers = fs::read_to_string(run.join(format!("{process}.answers")))?;
        ensure!(answers.lines().count() == lines, "{answers}");
        Ok(answers)
    })?;
    lab.terminate(process)?;
    eventually(BOUND, "its routes are gone", || {
        let left = table(lab)?;
        ensure!(!left.contains("10."), "{left}");
        Ok(())
    })?;
    Ok((tables, answers))
}

fn up(folder: &Path) -> Result<Lab> {
    let lab = two_hosts::up("xb", folder, BIRD)?;
    for (name, text) in
        [("script.sh", script()), ("exabgp.conf", EXABGP.to_owned()), ("speaker.toml", SPEAKER.to_owned())]
    {
        fs::write(lab.run_directory().join(name), lab.values().fill(&text)?)?;
    }
    Ok(lab)
}

#[test]
fn a_router_holds_the_same_of_a_script_under_exabgp_and_under_us() -> Result<()> {
    if !may_make_namespaces("a_router_holds_the_same_of_a_script_under_exabgp_and_under_us") {
        return Ok(());
    }
    stories::build_programs()?;
    let folder = tempfile::tempdir()?;
    let lab = up(folder.path())?;
    let (theirs, their_answers) = told(&lab, "exabgp", &["exabgp", "{{run}}/exabgp.conf"])?;
    let (ours, our_answers) = told(&lab, "speaker", &["bgp-speaker", "run", "--config", "{{run}}/speaker.toml"])?;
    assert_eq!(ours, theirs);
    assert_eq!(our_answers, their_answers);
    Ok(())
}
