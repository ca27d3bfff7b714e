//! Replays the corpora, and damages of them, without a fuzzer: what libFuzzer found once stays found.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use cloakway_fuzz::TARGETS;
use cloakway_sim::Rng;

const DAMAGES: u64 = 2000;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().expect("names are ASCII")).collect();
    names.sort();
    names
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = corpora().join(target);
    names(&folder).into_iter().map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

#[test]
fn every_target_has_a_corpus_and_a_binary() {
    let targets: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&corpora()), targets);
    let binaries: Vec<_> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets")), binaries);
    for (name, _) in TARGETS {
        assert!(!corpus(name).is_empty(), "corpora/{name} is empty");
    }
}

#[test]
fn nothing_in_the_corpora_breaks_its_target() {
    for (target, function) in TARGETS {
        for (name, bytes) in corpus(target) {
            run(&format!("corpora/{target}/{name}"), *function, &bytes);
        }
    }
}

#[test]
fn no_damage_to_the_corpora_breaks_a_target() {
    for (target, function) in TARGETS {
        let corpus = corpus(target);
        for seed in 0..DAMAGES {
            let bytes = damaged(&corpus, &mut Rng::new(seed));
            run(&format!("{target} with seed {seed}"), *function, &bytes);
        }
    }
}

/// Names the input of a failure, in full: it may go into the corpus as it is.
fn run(what: &str, function: fn(&[u8]), bytes: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| function(bytes))).is_err() {
        panic!("{what} broke it: {}", bytes.escape_ascii());
    }
}

/// Two inputs of the corpus spliced, and up to eight small changes.
fn damaged(corpus: &[(String, Vec<u8>)], rng: &mut Rng) -> Vec<u8> {
    let place = |rng: &mut Rng, length: usize| usize::try_from(rng.between(0, length as u64)).unwrap();
    let mut bytes = rng.pick(corpus).unwrap().1.clone();
    if rng.chance(30) {
        let other = &rng.pick(corpus).unwrap().1;
        let (cut, from) = (place(rng, bytes.len()), place(rng, other.len()));
        bytes.truncate(cut);
        bytes.extend_from_slice(&other[from..]);
    }
    for _ in 0..rng.between(0, 8) {
        let at = place(rng, bytes.len());
        let odd = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b'"', b'}']).unwrap();
        match rng.between(0, 5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, odd),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes[at] ^= 1 << rng.between(0, 7),
            4 if at < bytes.len() => bytes[at] = odd,
            _ if at < bytes.len() => bytes[at] = rng.next_u64().to_le_bytes()[0],
            _ => {}
        }
    }
    bytes
}
