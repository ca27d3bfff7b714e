//! Which prefixes are subscribers' now, as other roles tell the forwarder (A2): the topic [`TOPIC`] of their admin sockets.
//!
//! The forwarder asks now and then, and says what it knows already. Each answer is whole, so that nothing has to be made good
//! after one that was lost; one that has not changed is short. Who answers keeps nothing for those who ask.
//!
//! ```text
//! {"topic":"prefixes","arguments":{"within":"198.51.100.0/22","most":"1000","known":"b5f1…"}}
//! {"ok":{"ready":true,"tag":"c0a3…","prefixes":["198.51.100.0/24","198.51.102.7/32"]}}
//! {"ok":{"ready":true,"tag":"b5f1…"}}                         nothing has changed
//! {"ok":{"ready":false,"why":"no peer has told all of its routes yet"}}
//! ```

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The topic of the admin socket.
pub const TOPIC: &str = "prefixes";

/// No more prefixes are told at a time, whatever is asked.
pub const MOST: usize = 100_000;

/// A question has to fit a line of the admin socket.
pub const MOST_WITHIN: usize = 48;

/// No prefix takes more octets in an answer.
pub const PREFIX_OCTETS: usize = 48;

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// What is told lies inside one of these; anywhere when there is none.
    pub within: Vec<IpNet>,
    /// More than this many is no answer.
    pub most: Option<usize>,
    /// The tag of the last answer.
    pub known: Option<String>,
    /// Routes with one of these communities, as they are written; whatever they have when there is none.
    pub communities: Vec<String>,
    /// Routes that one of these ASes originates; whichever when there is none.
    pub origin_as: Vec<u32>,
    /// Routes of these peers, by name; of any when there is none.
    pub neighbours: Vec<String>,
}

/// Why something is no question, or no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixesError {
    /// An argument that cannot be read.
    #[error("{name} {text:?}: {right}")]
    Argument {
        /// Its name.
        name: &'static str,
        /// As written.
        text: String,
        /// What would be right.
        right: &'static str,
    },
    /// An answer of another form.
    #[error("what is told of prefixes is not understood: {0}")]
    Malformed(String),
    /// A prefix with bits behind its length.
    #[error("{prefix} is told, which has host bits set: {} is the prefix", prefix.trunc())]
    HostBits {
        /// As it was told.
        prefix: IpNet,
    },
    /// More than was asked for.
    #[error("{count} prefixes are told: at most {most} were asked for")]
    TooMany {
        /// How many.
        count: usize,
        /// How many were asked for.
        most: usize,
    },
}

impl Question {
    /// The arguments of the request.
    #[must_use]
    pub fn arguments(&self) -> BTreeMap<String, String> {
        let list = |items: Vec<String>| (!items.is_empty()).then(|| items.join(","));
        let written = [
            ("within", list(self.within.iter().map(ToString::to_string).collect())),
            ("most", self.most.map(|most| most.to_string())),
            ("known", self.known.clone()),
            ("community", list(self.communities.clone())),
            ("origin-as", list(self.origin_as.iter().map(ToString::to_string).collect())),
            ("neighbour", list(self.neighbours.clone())),
        ];
        written.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// Reads a question from the arguments of a request.
    ///
    /// # Errors
    /// [`PrefixesError::Argument`] names the one that is wrong.
    pub fn read<'a>(argument: impl Fn(&str) -> Option<&'a str>) -> Result<Self, PrefixesError> {
        let prefix = |text: &str| text.parse::<IpNet>().ok().filter(|prefix| *prefix == prefix.trunc());
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok(Self {
            within: list("within", argument("within"), "prefixes, with commas between them", prefix)?,
            most: list("most", argument("most"), "a number", |text| text.parse().ok())?.into_iter().next(),
            known: argument("known").map(str::to_owned),
            communities: list("community", argument("community"), "communities, with commas between them", text)?,
            origin_as: list("origin-as", argument("origin-as"), "numbers of ASes, with commas between them", |text| {
                text.parse().ok()
            })?,
            neighbours: list("neighbour", argument("neighbour"), "names of peers, with commas between them", text)?,
        })
    }

    /// Whether `prefix` lies where it was asked for.
    #[must_use]
    pub fn is_within(&self, prefix: &IpNet) -> bool {
        self.within.is_empty() || self.within.iter().any(|within| within.contains(prefix))
    }
}

fn list<T>(
    name: &'static str,
    text: Option<&str>,
    right: &'static str,
    one: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, PrefixesError> {
    let wrong = |item: &str| PrefixesError::Argument { name, text: item.to_owned(), right };
    let items = text.into_iter().flat_map(|text| text.split(','));
    items.map(|item| one(item.trim()).ok_or_else(|| wrong(item))).collect()
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Nothing can be said now, and why.
    NotReady(String),
    /// What the asker knows is still so.
    Unchanged,
    /// These and no others, with what to ask next time.
    Prefixes {
        /// Stands for these prefixes.
        tag: String,
        /// The prefixes, of which no two touch.
        prefixes: Vec<IpNet>,
    },
}

/// An answer as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    ready: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefixes: Option<Vec<IpNet>>,
}

impl Answer {
    /// Nothing can be said now.
    #[must_use]
    pub fn not_ready(why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..Self::default() }
    }

    /// What there is to tell who asked `question`, of everything that fits it. What touches is told as one.
    #[must_use]
    pub fn new(question: &Question, found: &[IpNet]) -> Self {
        let mut prefixes = IpNet::aggregate(&found.to_vec());
        let most = question.most.unwrap_or(MOST).min(MOST);
        if prefixes.len() > most {
            let count = prefixes.len();
            return Self::not_ready(format!("there are {count} prefixes: {most} are the most that may be told"));
        }
        prefixes.sort();
        let tag = tag(&prefixes);
        let known = question.known.as_deref() == Some(&*tag);
        Self { ready: true, why: None, tag: Some(tag), prefixes: (!known).then_some(prefixes) }
    }

    /// What it says to who asked `question`.
    ///
    /// # Errors
    /// [`PrefixesError`] when it is none, or says more than was asked.
    pub fn told(self, question: &Question) -> Result<Told, PrefixesError> {
        let malformed = |what: &str| Err(PrefixesError::Malformed(what.to_owned()));
        match self {
            Self { ready: false, why: Some(why), tag: None, prefixes: None } => Ok(Told::NotReady(why)),
            Self { ready: true, why: None, tag: Some(tag), prefixes: None } => {
                if question.known.as_ref() == Some(&tag) {
                    return Ok(Told::Unchanged);
                }
                malformed("nothing has changed since something that is not known here")
            }
            Self { ready: true, why: None, tag: Some(tag), prefixes: Some(prefixes) } => {
                if let Some(prefix) = prefixes.iter().find(|prefix| **prefix != prefix.trunc()) {
                    return Err(PrefixesError::HostBits { prefix: *prefix });
                }
                let (count, most) = (prefixes.len(), question.most.unwrap_or(MOST));
                if count > most {
                    return Err(PrefixesError::TooMany { count, most });
                }
                Ok(Told::Prefixes { tag, prefixes })
            }
            _ => malformed("neither prefixes nor a reason why there are none"),
        }
    }
}

/// Stands for a list of prefixes, in every process alike: FNV-1a, since nobody is to be kept from finding another such list.
fn tag(prefixes: &[IpNet]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |octet: u8| hash = (hash ^ u64::from(octet)).wrapping_mul(0x100_0000_01b3);
    for prefix in prefixes {
        match prefix {
            IpNet::V4(net) => net.addr().octets().into_iter().for_each(&mut add),
            IpNet::V6(net) => net.addr().octets().into_iter().for_each(&mut add),
        }
        add(prefix.prefix_len());
    }
    format!("{}-{hash:016x}", prefixes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn asked(question: &Question) -> Result<Question, PrefixesError> {
        let arguments = question.arguments();
        Question::read(|name| arguments.get(name).map(String::as_str))
    }

    #[test]
    fn the_lines_are_the_documented_ones() {
        let question = Question { within: vec![net("198.51.100.0/22")], most: Some(1000), ..Question::default() };
        let found = ["198.51.102.7/32", "198.51.100.0/25", "198.51.100.128/25", "198.51.100.3/32"].map(net);
        let answer = Answer::new(&question, &found);
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(
            text,
            "{\"ready\":true,\"tag\":\"2-73510008390b2c1a\",\"prefixes\":[\"198.51.100.0/24\",\"198.51.102.7/32\"]}"
        );
        let Told::Prefixes { tag, prefixes } = answer.told(&question).unwrap() else { panic!("prefixes") };
        assert_eq!(prefixes.len(), 2);
        let again = Question { known: Some(tag.clone()), ..question.clone() };
        let text = serde_json::to_string(&Answer::new(&again, &found)).unwrap();
        assert_eq!(text, format!("{{\"ready\":true,\"tag\":\"{tag}\"}}"));
        assert_eq!(Answer::new(&again, &found).told(&again), Ok(Told::Unchanged));
        assert!(Answer::new(&again, &found).told(&question).is_err(), "who knows nothing is told all");
        assert!(matches!(Answer::new(&again, &found[1..]).told(&again), Ok(Told::Prefixes { .. })));
        assert_eq!(
            serde_json::to_string(&Answer::not_ready("no peer")).unwrap(),
            "{\"ready\":false,\"why\":\"no peer\"}"
        );
    }

    #[test]
    fn more_than_is_asked_for_is_no_answer() {
        let question = Question { most: Some(1), ..Question::default() };
        let found = ["198.51.102.7/32", "198.51.100.0/25"].map(net);
        let told = Answer::new(&question, &found).told(&question);
        assert_eq!(
            told,
            Ok(Told::NotReady("there are 2 prefixes: 1 are the most that may be told".into())),
            "one that keeps to it"
        );
        let all = Answer::new(&Question::default(), &found);
        assert_eq!(all.told(&question), Err(PrefixesError::TooMany { count: 2, most: 1 }), "and one that does not");
    }

    #[test]
    fn what_is_no_answer_or_no_question_is_refused() {
        let question = Question::default();
        for text in [
            "{\"ready\":true}",
            "{\"ready\":false}",
            "{\"ready\":true,\"tag\":\"x\"}",
            "{\"ready\":true,\"why\":\"x\",\"tag\":\"x\",\"prefixes\":[]}",
            "{\"ready\":false,\"why\":\"x\",\"prefixes\":[]}",
            "{\"ready\":true,\"tag\":\"x\",\"prefixes\":[\"198.51.100.1/24\"]}",
        ] {
            let answer: Answer = serde_json::from_str(text).unwrap();
            assert!(answer.told(&question).is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Answer>("{\"ready\":true,\"more\":1}").is_err());
        for (name, text) in [
            ("within", "198.51.100.1/24"),
            ("within", "198.51.100.0/24,"),
            ("most", "-1"),
            ("origin-as", "AS1"),
            ("community", "64500:1,,64500:2"),
            ("neighbour", ""),
        ] {
            let read = Question::read(|asked| (asked == name).then_some(text));
            assert!(matches!(&read, Err(PrefixesError::Argument { name: found, .. }) if *found == name), "{read:?}");
        }
    }

    fn any_prefix() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<[u8; 4]>(), 0_u8..=32).prop_map(|(bits, length)| IpNet::new(bits.into(), length).unwrap().trunc()),
            (any::<[u8; 16]>(), 0_u8..=128).prop_map(|(bits, length)| IpNet::new(bits.into(), length).unwrap().trunc()),
        ]
    }

    proptest! {
        #[test]
        fn a_question_is_read_as_it_was_asked(
            within in prop::collection::vec(any_prefix(), 0..5),
            most in prop::option::of(any::<usize>()),
            known in prop::option::of("[0-9a-f-]{1,20}"),
            communities in prop::collection::vec("[0-9:]{1,20}", 0..3),
            origin_as in prop::collection::vec(any::<u32>(), 0..3),
            neighbours in prop::collection::vec("[a-z0-9.-]{1,20}", 0..3),
        ) {
            let question = Question { within, most, known, communities, origin_as, neighbours };
            prop_assert_eq!(asked(&question), Ok(question));
        }

        #[test]
        fn an_answer_is_read_as_it_was_given(found in prop::collection::vec(any_prefix(), 0..20)) {
            let question = Question::default();
            let text = serde_json::to_string(&Answer::new(&question, &found)).unwrap();
            let Told::Prefixes { prefixes, .. } = serde_json::from_str::<Answer>(&text).unwrap().told(&question).unwrap()
            else { panic!("prefixes") };
            prop_assert!(found.iter().all(|one| prefixes.iter().any(|told| told.contains(one))));
            for told in &prefixes {
                // Nothing more than what was found: both halves of what is told stand for something.
                prop_assert!(found.iter().any(|one| told.contains(one)));
            }
            prop_assert!(prefixes.iter().all(|prefix| prefix.to_string().len() + 3 <= PREFIX_OCTETS));
        }

        #[test]
        fn any_text_is_an_answer_or_refused(text in "\\PC{0,200}") {
            if let Ok(answer) = serde_json::from_str::<Answer>(&text) {
                let _ = answer.told(&Question::default());
            }
        }
    }
}
