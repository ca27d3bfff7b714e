//! `[[subscribers.live]]`: who tells of live subscriber prefixes, and what he may tell.

use std::path::PathBuf;
use std::time::Duration;

use cloakway_runtime::admin::Request;
use cloakway_runtime::config::{self, Invalid};
use forwarder_core::live::Bounds;
use forwarder_wire::prefixes::{MOST, MOST_WITHIN, Question, TOPIC};
use ipnet::IpNet;
use serde::Deserialize;

/// Each is asked by itself.
const MOST_FEEDS: usize = 8;

/// A request has to fit a line of the admin socket (4096 octets), with the tag of the last answer.
const LONGEST: usize = 3900;

/// One of `[[subscribers.live]]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Raw {
    name: String,
    from: String,
    socket: Option<PathBuf>,
    within: Vec<IpNet>,
    #[serde(default = "thousand")]
    max_prefixes: usize,
    #[serde(default = "five_minutes")]
    hold_s: u64,
    #[serde(default = "one_second")]
    every_ms: u64,
    communities: Option<Vec<String>>,
    origin_as: Option<Vec<u32>>,
    neighbours: Option<Vec<String>>,
}

const fn thousand() -> usize {
    1000
}

const fn five_minutes() -> u64 {
    300
}

const fn one_second() -> u64 {
    1000
}

/// A feed as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its name in logs, metrics and `show`.
    pub name: String,
    /// Whose admin socket it is: `bgp-speaker` or `toolbox`.
    pub from: &'static str,
    /// Where it is asked.
    pub socket: PathBuf,
    /// What is asked.
    pub question: Question,
    /// What it may tell, as written.
    pub within: Vec<IpNet>,
    /// What it may do.
    pub bounds: Bounds,
    /// How often it is asked.
    pub every: Duration,
}

/// The feeds, each with a name of its own.
pub(crate) fn settings(raw: Vec<Raw>) -> Result<Vec<Settings>, Invalid> {
    if raw.len() > MOST_FEEDS {
        return Err(Invalid::at("subscribers.live", format!("{} feeds: at most {MOST_FEEDS} are allowed", raw.len())));
    }
    let mut feeds: Vec<Settings> = Vec::with_capacity(raw.len());
    for (index, feed) in raw.into_iter().enumerate() {
        let feed = one(index, feed)?;
        if feeds.iter().any(|other| other.name == feed.name) {
            let why = format!("feed {} is listed twice: give each a name of its own", feed.name);
            return Err(Invalid::at(format!("subscribers.live[{index}].name"), why));
        }
        feeds.push(feed);
    }
    Ok(feeds)
}

fn one(index: usize, raw: Raw) -> Result<Settings, Invalid> {
    let at = |field: &str, why: String| Invalid::at(format!("subscribers.live[{index}].{field}"), why);
    let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if raw.name.is_empty() || raw.name.len() > 24 || !raw.name.chars().all(usable) {
        return Err(at("name", format!("{:?} is no name of a feed: 1 to 24 of a-z, 0-9 and '-'", raw.name)));
    }
    let from = match raw.from.as_str() {
        "bgp-speaker" => "bgp-speaker",
        "toolbox" => "toolbox",
        other => return Err(at("from", format!("{other:?} tells no prefixes: give \"bgp-speaker\" or \"toolbox\""))),
    };
    let of_routes = [
        ("communities", raw.communities.is_some()),
        ("origin-as", raw.origin_as.is_some()),
        ("neighbours", raw.neighbours.is_some()),
    ];
    if let Some((field, _)) = of_routes.iter().find(|(_, written)| *written && from == "toolbox") {
        return Err(at(field, "the toolbox has no routes: leave it out".to_owned()));
    }
    if raw.within.len() > MOST_WITHIN {
        return Err(at("within", format!("{} prefixes: at most {MOST_WITHIN} are allowed", raw.within.len())));
    }
    let in_range = |field: &str, value: u64, low: u64, high: u64| match (low..=high).contains(&value) {
        true => Ok(()),
        false => Err(at(field, format!("{value} is not allowed: {low} to {high}"))),
    };
    let most = u64::try_from(MOST).unwrap_or(u64::MAX);
    in_range("max-prefixes", u64::try_from(raw.max_prefixes).unwrap_or(u64::MAX), 1, most)?;
    in_range("hold-s", raw.hold_s, 0, 86_400)?;
    in_range("every-ms", raw.every_ms, 200, 60_000)?;
    let communities = raw.communities.unwrap_or_default();
    if let Some(wrong) = communities.iter().find(|text| !is_community(text)) {
        return Err(at("communities", format!("{wrong:?} is no community: write 64500:100, or 64500:1:100")));
    }
    let origin_as = raw.origin_as.unwrap_or_default();
    if origin_as.contains(&0) {
        return Err(at("origin-as", "0 is no AS that originates anything (RFC 7607)".to_owned()));
    }
    let neighbours = raw.neighbours.unwrap_or_default();
    if let Some(wrong) = neighbours.iter().find(|name| name.is_empty() || name.contains(',')) {
        return Err(at("neighbours", format!("{wrong:?} is no name of a peer of the bgp-speaker")));
    }
    let socket = raw.socket.unwrap_or_else(|| config::default_socket(from));
    if !socket.is_absolute() {
        return Err(at("socket", "an absolute path is needed".to_owned()));
    }
    let question = Question {
        within: raw.within.clone(),
        most: Some(raw.max_prefixes),
        known: None,
        communities,
        origin_as,
        neighbours,
    };
    let request = Request { topic: TOPIC.to_owned(), arguments: question.arguments() };
    if serde_json::to_string(&request).map_or(usize::MAX, |text| text.len()) > LONGEST {
        return Err(at("within", "the question is too long for the admin socket: name less in this feed".to_owned()));
    }
    let bounds = Bounds { within: IpNet::aggregate(&raw.within), hold: Duration::from_secs(raw.hold_s) };
    let every = Duration::from_millis(raw.every_ms);
    Ok(Settings { name: raw.name, from, socket, question, within: raw.within, bounds, every })
}

/// A community of RFC 1997 or RFC 8092 as it is written.
fn is_community(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    parts.iter().all(digits)
        && match parts.len() {
            2 => parts.iter().all(|part| part.parse::<u16>().is_ok()),
            3 => parts.iter().all(|part| part.parse::<u32>().is_ok()),
            _ => false,
        }
}

/// What `check` says of a feed.
pub(crate) fn summary(feeds: &[Settings]) -> Vec<String> {
    let line = |feed: &Settings| {
        let within: Vec<_> = feed.within.iter().map(ToString::to_string).collect();
        format!(
            "live subscriber prefixes {} from {} by {}: at most {} within {}, kept {} s behind its last word",
            feed.name,
            feed.from,
            feed.socket.display(),
            feed.question.most.unwrap_or_default(),
            within.join(", "),
            feed.bounds.hold.as_secs(),
        )
    };
    feeds.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use cloakway_runtime::config;

    use crate::config::Config;

    const EXAMPLE: &str = include_str!("../../../configs/forwarder.toml");

    fn parsed(feed: &str) -> Result<Config, String> {
        let text = EXAMPLE.replacen(
            "\n# A private link: the",
            &format!("\n[[subscribers.live]]\n{feed}\n# A private link: the"),
            1,
        );
        assert_ne!(text, EXAMPLE);
        config::parse("forwarder.toml", &text).map_err(|error| error.to_string())
    }

    const FEED: &str = "name = \"radius\"\nfrom = \"toolbox\"\nwithin = [\"198.51.100.0/22\"]\n";

    #[test]
    fn the_commented_example_is_right_and_its_values_are_the_defaults() {
        let commented: String = EXAMPLE
            .split_once("# [[subscribers.live]]")
            .map(|(_, rest)| rest)
            .unwrap()
            .lines()
            .skip(1)
            .take_while(|line| line.starts_with('#'))
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')))
            .map(|line| format!("{line}\n"))
            .collect();
        let [whole] = &parsed(&commented).unwrap().feeds[..] else { panic!("one feed") };
        assert_eq!((whole.from, whole.question.communities.len()), ("bgp-speaker", 1));
        let least: String = commented
            .lines()
            .filter(|line| ["name", "from", "within"].iter().any(|key| line.starts_with(key)))
            .map(|line| format!("{line}\n"))
            .collect();
        let [least] = &parsed(&least).unwrap().feeds[..] else { panic!("one feed") };
        assert_eq!((&least.bounds, &least.socket, least.every), (&whole.bounds, &whole.socket, whole.every));
        assert_eq!(least.question.most, whole.question.most);
    }

    #[test]
    fn a_feed_is_read_and_told_of() {
        let config = parsed(FEED).unwrap();
        let [feed] = &config.feeds[..] else { panic!("one feed") };
        assert_eq!(feed.socket, config::default_socket("toolbox"));
        assert_eq!(
            super::summary(&config.feeds),
            ["live subscriber prefixes radius from toolbox by /run/cloakway/toolbox.sock: at most 1000 within \
              198.51.100.0/22, kept 300 s behind its last word"]
        );
        let alone = FEED.replace("198.51.100.0/22\"", "198.51.100.0/22\", \"2001:db8:5100::/40\"");
        let text = EXAMPLE.replace("prefixes = [\"198.51.100.64/26\", \"2001:db8:5100:64::/64\"]", "prefixes = []");
        let without = config::parse::<Config>("forwarder.toml", &text).unwrap_err().to_string();
        assert!(without.contains("subscribers.prefixes: nothing is listed"), "{without}");
        let text = text.replacen("prefixes = []\n", &format!("prefixes = []\n[[subscribers.live]]\n{alone}\n"), 1);
        assert!(config::parse::<Config>("forwarder.toml", &text).is_ok(), "fed alone");
    }

    #[test]
    fn what_is_wrong_with_a_feed_is_named() {
        let replaced = |from: &str, to: &str| {
            let text = FEED.replace(from, to);
            assert_ne!(text, FEED);
            text
        };
        let more = |line: &str| format!("{FEED}{line}\n");
        let many: Vec<String> = (0..49).map(|n| format!("\"10.{n}.0.0/16\"")).collect();
        let long: Vec<String> = (0..400).map(|n| format!("\"64500:{n}\"")).collect();
        for (feed, refusal) in [
            (replaced("radius", "Radius"), "subscribers.live[0].name: \"Radius\" is no name of a feed"),
            (replaced("toolbox", "dhcp"), "subscribers.live[0].from: \"dhcp\" tells no prefixes: give \"bgp-speaker\""),
            (replaced("\"198.51.100.0/22\"", ""), "subscribers.live[0].within: nothing is listed"),
            (
                replaced("198.51.100.0/22", "198.51.100.1/22"),
                "subscribers.live[0].within[0]: 198.51.100.1/22 has host bits",
            ),
            (replaced("198.51.100.0/22", "0.0.0.0/0"), "subscribers.live[0].within[0]: 0.0.0.0/0 is the default route"),
            (replaced("\"198.51.100.0/22\"", &many.join(", ")), "subscribers.live[0].within: 49 prefixes: at most 48"),
            (more("stray = 1"), "unknown field `stray`"),
            (more("max-prefixes = 0"), "subscribers.live[0].max-prefixes: 0 is not allowed: 1 to 100000"),
            (more("hold-s = 86401"), "subscribers.live[0].hold-s: 86401 is not allowed: 0 to 86400"),
            (more("every-ms = 199"), "subscribers.live[0].every-ms: 199 is not allowed: 200 to 60000"),
            (more("socket = \"x\""), "subscribers.live[0].socket: an absolute path is needed"),
            (more("communities = [\"64500:1\"]"), "subscribers.live[0].communities: the toolbox has no routes"),
            (more("neighbours = [\"edge\"]"), "subscribers.live[0].neighbours: the toolbox has no routes"),
        ] {
            let error = parsed(&feed).unwrap_err();
            assert!(error.contains(refusal), "{feed}: {error}");
        }
        let speaker = replaced("toolbox", "bgp-speaker");
        for (line, refusal) in [
            ("communities = [\"64500\"]".to_owned(), "communities: \"64500\" is no community"),
            ("communities = [\"65536:1\"]".to_owned(), "communities: \"65536:1\" is no community"),
            ("communities = [\"64500:+1\"]".to_owned(), "communities: \"64500:+1\" is no community"),
            ("origin-as = [0]".to_owned(), "origin-as: 0 is no AS"),
            ("neighbours = [\"a,b\"]".to_owned(), "neighbours: \"a,b\" is no name of a peer"),
            (format!("communities = [{}]", long.join(", ")), "within: the question is too long"),
        ] {
            let error = parsed(&format!("{speaker}{line}\n")).unwrap_err();
            assert!(error.contains(refusal), "{line}: {error}");
        }
        assert!(parsed(&format!("{speaker}communities = [\"64500:100\", \"4200000000:1:2\"]\n")).is_ok());
        let twice = format!("{FEED}[[subscribers.live]]\n{FEED}");
        assert!(parsed(&twice).unwrap_err().contains("subscribers.live[1].name: feed radius is listed twice"));
        let nine: String =
            (0..9).map(|n| format!("[[subscribers.live]]\n{}", FEED.replace("radius", &format!("r{n}")))).collect();
        let nine = nine.trim_start_matches("[[subscribers.live]]\n").to_owned();
        assert!(parsed(&nine).unwrap_err().contains("subscribers.live: 9 feeds: at most 8"));
    }
}
