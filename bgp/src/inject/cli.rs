//! `bgp-speaker route …`: the API from the command line.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Map, Value, json};

/// The subcommand `route` with all below it.
#[must_use]
pub fn command() -> Command {
    let socket = || {
        Arg::new("socket")
            .long("socket")
            .value_name("PATH")
            .value_parser(value_parser!(PathBuf))
            .default_value("/run/cloakway/bgp-speaker-api.sock")
            .help("The API socket: inject.api-socket in the configuration")
    };
    let set = || Arg::new("set").long("set").value_name("NAME").default_value("cli").help("The set of routes");
    let id = || Arg::new("id").long("id").value_name("ID").help("The request's id: asked again, it is done once");
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let number = |name: &'static str, help: &'static str| option(name, "NUMBER", help).value_parser(value_parser!(u32));
    let attributes = move |command: Command| {
        command
            .arg(option("next-hop", "ADDRESS", "Where to send; self: to us").required(true))
            .arg(option("community", "COMMUNITY", "Such as 64500:1 or no-export").action(ArgAction::Append))
            .arg(option("extended-community", "COMMUNITY", "Such as rt:64500:100").action(ArgAction::Append))
            .arg(option("large-community", "COMMUNITY", "Such as 64500:1:2").action(ArgAction::Append))
            .arg(option("peer", "ADDRESS", "A peer that is told; all, unless given").action(ArgAction::Append))
            .arg(number("local-preference", "To internal peers; 100 unless given"))
            .arg(number("med", "MULTI_EXIT_DISC"))
            .arg(number("as-path", "AS numbers behind our own").action(ArgAction::Append))
            .arg(option("guard", "GUARD", "no-export or no-advertise: for private prefixes"))
    };
    let rules = || Arg::new("rule").num_args(1..).required(true).value_name("RULE").help("Rules, each in quotes");
    let flow = Command::new("flow")
        .about("Change the injected flow rules (RFC 8955), such as \"destination 203.0.113.0/24 protocol =17\"")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("add")
                .about("Announce rules")
                .after_help(
                    "Example:\n  bgp-speaker route flow add \"destination 198.51.100.0/24 protocol =17\" --then discard \
                     --set ddos\n",
                )
                .arg(option("then", "ACTIONS", "Such as discard, or \"rate-bytes 1000, mark 46\"").required(true))
                .arg(option("community", "COMMUNITY", "Such as 64500:1 or no-export").action(ArgAction::Append))
                .arg(option("guard", "GUARD", "no-export or no-advertise: for private prefixes"))
                .arg(option("peer", "ADDRESS", "A peer that is told; all, unless given").action(ArgAction::Append))
                .args([socket(), set(), id(), rules()]),
        )
        .subcommand(Command::new("del").about("Withdraw rules").args([socket(), set(), id(), rules()]))
        .subcommand(Command::new("clear").about("Withdraw a whole set of rules").args([socket(), set(), id()]))
        .subcommand(Command::new("list").about("Show the rules of a set").args([socket(), set()]));
    let prefixes = || Arg::new("prefix").num_args(1..).required(true).value_name("PREFIX").help("Prefixes");
    Command::new("route")
        .about("Change the injected routes, and wait until peers have them")
        .after_help(
            "Examples:\n  \
             bgp-speaker route add 10.0.0.0/24 --next-hop 192.0.2.1 --community 64500:1 --set anycast\n  \
             bgp-speaker route set --set customers --next-hop 192.0.2.1 < prefixes.txt\n  \
             bgp-speaker route wait --prefix 10.0.0.0/24\n  \
             bgp-speaker route drain --set anycast --for 30\n  \
             bgp-speaker route list --set anycast\n",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(attributes(
            Command::new("add")
                .about("Announce prefixes")
                .after_help(
                    "Example:\n  bgp-speaker route add 10.0.0.0/24 10.0.1.0/24 --next-hop self --med 50 --peer 192.0.2.9 \
                     --id change-17\n",
                )
                .arg(socket()).arg(set()).arg(id()).arg(prefixes()),
        ))
        .subcommand(Command::new("del").about("Withdraw prefixes").arg(socket()).arg(set()).arg(id()).arg(prefixes()))
        .subcommand(attributes(
            Command::new("set")
                .about("Make the prefixes on standard input, a line each, the whole set")
                .arg(socket())
                .arg(set())
                .arg(id()),
        ))
        .subcommand(Command::new("clear").about("Withdraw a whole set").arg(socket()).arg(set()).arg(id()))
        .subcommand(
            Command::new("drain")
                .about(
                    "Have peers prefer any other path to a set's routes for a while, then withdraw them until resumed",
                )
                .arg(socket())
                .arg(set())
                .arg(number("for", "Seconds until they are withdrawn").default_value("30"))
                .arg(number("med", "Tell them with this MED, not with GRACEFUL_SHUTDOWN"))
                .arg(
                    option("prepend", "NUMBER", "Tell them with our AS so many times more on the path")
                        .value_parser(value_parser!(u8))
                        .conflicts_with("med"),
                ),
        )
        .subcommand(Command::new("resume").about("Announce a drained set again").arg(socket()).arg(set()))
        .subcommand(Command::new("list").about("Show the routes of a set").arg(socket()).arg(set()))
        .subcommand(flow)
        .subcommand(
            Command::new("why")
                .about("Say why a prefix is announced, or not")
                .arg(socket())
                .arg(Arg::new("prefix").required(true).value_name("PREFIX").help("The prefix")),
        )
        .subcommand(
            Command::new("wait")
                .about("Wait until all that was accepted is on the wire and acknowledged by the peers' TCP")
                .arg(socket())
                .arg(option("request", "ID", "A request that must have been accepted"))
                .arg(option("prefix", "PREFIX", "A prefix that must be announced"))
                .arg(
                    Arg::new("timeout-ms")
                        .long("timeout-ms")
                        .value_name("NUMBER")
                        .value_parser(value_parser!(u64))
                        .default_value("10000")
                        .help("Milliseconds to wait"),
                ),
        )
}

/// Carries out `route …`.
#[must_use]
pub fn run(matches: &ArgMatches) -> ExitCode {
    let Some((verb, matches)) = matches.subcommand() else { return ExitCode::from(2) };
    let (verb, matches) = match matches.subcommand() {
        Some((inner, matches)) => (format!("{verb} {inner}"), matches),
        None => (verb.to_owned(), matches),
    };
    let socket = matches.get_one::<PathBuf>("socket").cloned().unwrap_or_default();
    match ask(&socket, &verb, matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bgp-speaker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a String> {
    matches.get_one::<String>(name)
}

fn attributes(matches: &ArgMatches) -> Map<String, Value> {
    let mut map = Map::new();
    for name in ["next-hop", "guard"] {
        map.extend(text(matches, name).map(|value| (name.to_owned(), json!(value))));
    }
    for name in ["local-preference", "med"] {
        map.extend(matches.get_one::<u32>(name).map(|value| (name.to_owned(), json!(value))));
    }
    let lists = [
        ("community", "communities"),
        ("extended-community", "extended-communities"),
        ("large-community", "large-communities"),
        ("peer", "peers"),
    ];
    for (name, field) in lists {
        let values: Vec<&String> = matches.get_many(name).unwrap_or_default().collect();
        map.insert(field.to_owned(), json!(values));
    }
    let path: Vec<&u32> = matches.get_many("as-path").unwrap_or_default().collect();
    map.insert("as-path".to_owned(), json!(path));
    map
}

fn ask(socket: &Path, verb: &str, matches: &ArgMatches) -> Result<(), String> {
    let prefixes = || matches.get_many::<String>("prefix").unwrap_or_default().collect::<Vec<_>>();
    let rules = || matches.get_many::<String>("rule").unwrap_or_default().collect::<Vec<_>>();
    let set = matches.try_get_one::<String>("set").ok().flatten();
    let id = matches.try_get_one::<String>("id").ok().flatten();
    let mut request = match verb {
        "add" => {
            let mut group = attributes(matches);
            group.insert("prefixes".to_owned(), json!(prefixes()));
            json!({ "patch": { "set": set, "routes": [group] } })
        }
        "flow add" => {
            let rule = |rule: &&String| {
                let mut map = Map::new();
                map.insert("rule".to_owned(), json!(rule));
                for name in ["then", "guard"] {
                    map.extend(text(matches, name).map(|value| (name.to_owned(), json!(value))));
                }
                let communities: Vec<&String> = matches.get_many("community").unwrap_or_default().collect();
                map.insert("communities".to_owned(), json!(communities));
                let peers: Vec<&String> = matches.get_many("peer").unwrap_or_default().collect();
                map.insert("peers".to_owned(), json!(peers));
                Value::Object(map)
            };
            json!({ "flow": { "set": set, "rules": rules().iter().map(rule).collect::<Vec<_>>() } })
        }
        "flow del" => json!({ "flow": { "set": set, "remove": rules() } }),
        "flow clear" => json!({ "flow": { "set": set, "replace": true } }),
        "flow list" => json!({ "flows": { "set": set } }),
        "del" => json!({ "patch": { "set": set, "remove": prefixes() } }),
        "set" => json!({ "stream": { "set": set, "replace": true } }),
        "drain" => {
            let med = matches.get_one::<u32>("med").map(|med| json!({ "med": med }));
            let prepend = matches.get_one::<u8>("prepend").map(|times| json!({ "prepend": times }));
            let by = med.or(prepend).unwrap_or_else(|| json!("graceful-shutdown"));
            json!({ "drain": { "set": set, "for-s": matches.get_one::<u32>("for"), "by": by } })
        }
        "resume" => json!({ "resume": { "set": set } }),
        "clear" => json!({ "delete": { "set": set } }),
        "list" => json!({ "get": { "set": set } }),
        "why" => json!({ "look-up": { "prefix": text(matches, "prefix") } }),
        _ => {
            let timeout = matches.get_one::<u64>("timeout-ms");
            json!({ "wait": { "request": text(matches, "request"), "prefix": text(matches, "prefix"), "timeout-ms": timeout } })
        }
    };
    if let (Some(id), Some(map)) = (id, request.as_object_mut()) {
        map.insert("id".to_owned(), json!(id));
    }
    let named = |error: std::io::Error| format!("{}: {error}", socket.display());
    let stream = UnixStream::connect(socket).map_err(|error| format!("{}: is the speaker running?", named(error)))?;
    let mut write = std::io::BufWriter::new(&stream);
    writeln!(write, "{request}").map_err(named)?;
    if verb == "set" {
        writeln!(write, "{}", Value::Object(attributes(matches))).map_err(named)?;
        let input = std::io::stdin();
        if input.is_terminal() {
            eprintln!("prefixes, a line each; Ctrl-D ends them");
        }
        std::io::copy(&mut input.lock(), &mut write).map_err(named)?;
        writeln!(write, ".").map_err(named)?;
    }
    write.flush().map_err(named)?;
    for line in BufReader::new(&stream).lines() {
        let line = line.map_err(named)?;
        let answer: Value =
            serde_json::from_str(&line).map_err(|error| format!("the answer is not understood: {error}"))?;
        if let Some(error) = answer.get("error").and_then(Value::as_str) {
            return Err(error.to_owned());
        }
        let done = answer.get("ok");
        // A reader that has gone away is no error.
        if writeln!(std::io::stdout(), "{}", done.unwrap_or(&answer)).is_err() || done.is_some() {
            return Ok(());
        }
    }
    Err("the speaker hung up without an answer".to_owned())
}
