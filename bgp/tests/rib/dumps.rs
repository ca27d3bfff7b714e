//! The table as MRT: a dump that decides where no peer has told, and our own that others read.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use bgp_wire::{AsPath, Asn, Attributes, Community, Context, Family, Message, Origin, Update};
use cloakway_runtime::admin;
use cloakway_runtime::admin::Request;
use look_up_wire::Verdict;
use mrt_wire::{Framer, Record};
use serde_json::Value;

use crate::support::{Router, Speaker, route, soon};

/// An MRT dump: 10.0.0.0/8 of AS `asn` (TABLE_DUMP_V2), and 11.0.0.0/8 of two ASes (messages of BGP4MP).
fn dump(asn: u32) -> Vec<u8> {
    use mrt_wire::writer::{self, Direction, Ends, RouteEntry, Style, Time};
    let mut attributes = Vec::new();
    route(&["10.0.0.0/8"], &[64501, asn], &[]).attributes.encode(None, Context::default(), &mut attributes).unwrap();
    let entry = RouteEntry { peer_index: 0, originated: 0, path_id: 0, attributes };
    let mut dump = writer::peer_index(0, Ipv4Addr::LOCALHOST, "", &[]);
    dump.extend(writer::rib(0, 0, "10.0.0.0/8".parse().unwrap(), &[entry]));
    for n in [1, 2] {
        let peer = Ipv4Addr::new(127, 0, 0, n).into();
        let ends = Ends { peer_asn: Asn(64501), local_asn: Asn(64502), peer, local: peer };
        let update = Message::Update(route(&["11.0.0.0/8"], &[64501, asn + u32::from(n)], &[]));
        let update = update.encode(Context::default()).unwrap();
        let style = Style { four_octet_as: true, path_ids: false };
        let time = Time { seconds: 0, microseconds: 0 };
        dump.extend(writer::message(time, &ends, Direction::Received, style, &update));
    }
    dump
}

#[tokio::test]
async fn a_dump_decides_where_no_peer_has_told_and_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rib.mrt");
    let mut a = Router::new(64501, 41).await;
    let mrt = format!("mrt = {file:?}");
    let speaker = Speaker::start_in(folder, &a.table("import = \"all\""), &mrt);
    let no_file = |rib: &Value| rib["dump"]["problem"].as_str().is_some_and(|text| text.contains("No such file"));
    speaker.show_until("rib", no_file).await;
    assert_eq!(speaker.whose("10.0.0.1").await, Verdict::NotReady);
    let read = |asn: u32| move |shown: &Value| shown["answer"] == format!("10.0.0.0/8 is of AS {asn}");
    let pack = |bytes: &[u8], bzip2: bool| {
        use std::io::Write as _;
        if bzip2 {
            let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        } else {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        }
    };
    let (prefix, eleven) = ("10.0.0.0/8".parse().unwrap(), "11.0.0.0/8".parse().unwrap());
    for (asn, bytes) in [(64510, dump(64510)), (64520, pack(&dump(64520), false)), (64530, pack(&dump(64530), true))] {
        std::fs::write(&file, bytes).unwrap();
        let shown = speaker.show_until("look-up 10.0.0.1", read(asn)).await;
        assert_eq!(shown["source"], "dump");
        assert_eq!(speaker.whose("10.0.0.1").await, Verdict::Origin { prefix, asn });
        assert_eq!(speaker.whose("11.0.0.1").await, Verdict::Disputed { prefix: eleven });
        assert_eq!(speaker.whose("12.0.0.1").await, Verdict::NotReady, "no peer has told, and it is not in the dump");
    }
    // What cannot be read leaves what was read before.
    std::fs::write(&file, b"no dump at all").unwrap();
    let rib = speaker.show_until("rib", |rib| !rib["dump"]["problem"].is_null()).await;
    assert_eq!((&rib["dump"]["prefixes"], &rib["dump"]["routes"]), (&2.into(), &3.into()), "{rib}");
    assert_eq!(speaker.whose("10.0.0.1").await, Verdict::Origin { prefix, asn: 64530 });
    // A peer that has told all knows better, where it knows anything.
    a.establish().await;
    a.tell(route(&["10.0.0.0/8"], &[64501, 64540], &[])).await;
    a.tell(Update::end_of_rib(Family::Ipv4)).await;
    let shown = speaker.show_until("look-up 10.0.0.1", read(64540)).await;
    assert_eq!(shown["source"], "live");
    assert_eq!(speaker.whose("11.0.0.1").await, Verdict::Disputed { prefix: eleven });
    assert_eq!(speaker.whose("12.0.0.1").await, Verdict::NoRoute);
    speaker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_written_down_and_read_by_others() {
    use bgpkit_parser::BgpkitParser;
    let (mut a, mut b) = (Router::new(64501, 42).await, Router::new(64502, 43).await);
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("now-and-then.mrt");
    let peers = [a.table("import = \"all\""), b.table("import = \"all\"")].concat();
    let speaker = Speaker::start_in(folder, &peers, &format!("dump = {{ file = {kept:?}, every-s = 1 }}"));
    for router in [&mut a, &mut b] {
        router.establish().await;
        router.ends().await;
    }
    a.tell(route(&["10.0.0.0/8", "203.0.113.200/32"], &[64501, 4_200_000_001], &[Community(0xfbf4_0001)])).await;
    b.tell(route(&["10.0.0.0/8"], &[64502, 64502, 4_200_000_001], &[])).await;
    let six = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence(vec![Asn(64502)])),
        ..Attributes::default()
    };
    let prefixes = ["2001:db8:1::/48".parse().unwrap()];
    let next_hop = "2001:db8::7".parse().unwrap();
    for update in bgp_wire::announce_v6(&six, next_hop, prefixes, Context::default()).unwrap() {
        b.tell(update).await;
    }
    b.tell(Update::end_of_rib(Family::Ipv4)).await;
    speaker.show_until("rib", |rib| rib["ipv6_prefixes"] == 1 && rib["ipv4_prefixes"] == 2).await;

    let expected = [
        "10.0.0.0/8 of 64501 4200000001 from 127.0.0.42 AS 64501 via 192.0.2.7",
        "10.0.0.0/8 of 64502 64502 4200000001 from 127.0.0.43 AS 64502 via 192.0.2.7",
        "2001:db8:1::/48 of 64502 from 127.0.0.43 AS 64502 via 2001:db8::7",
    ];
    for name in ["rib.mrt", "rib.mrt.gz"] {
        let file = speaker.folder.path().join(name);
        let socket = speaker.folder.path().join("admin");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bgp-speaker"));
        command.arg("dump").arg("--socket").arg(&socket).arg("--rib").arg(&file).arg("--json");
        let done = tokio::task::block_in_place(|| command.output().unwrap());
        let said = String::from_utf8(done.stdout).unwrap();
        assert_eq!(
            said.trim(),
            "{\"peers\":2,\"prefixes\":2,\"routes\":3}",
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let mut bytes = Vec::new();
        cloakway_runtime::file::unpack(std::fs::File::open(&file).unwrap(), |piece| {
            bytes.extend_from_slice(piece);
            Ok::<(), String>(())
        })
        .unwrap();
        let read: Vec<String> = BgpkitParser::from_reader(std::io::Cursor::new(bytes))
            .into_elem_iter()
            .map(|elem| {
                let path = elem.as_path.unwrap();
                format!(
                    "{} of {path} from {} AS {} via {}",
                    elem.prefix.prefix,
                    elem.peer_ip,
                    elem.peer_asn,
                    elem.next_hop.unwrap()
                )
            })
            .collect();
        assert_eq!(read, expected, "what touches a private prefix is not used, and not in it");
        let whose = facilitation::isp::read_rib(std::fs::File::open(&file).unwrap()).unwrap();
        assert_eq!(whose.find([10, 1, 1, 1].into()), Some(mrt_wire::Whose::Origin(Asn(4_200_000_001))));
        let Ok(read) = std::process::Command::new("bgpdump").arg("-m").arg(&file).output() else {
            cloakway_testing::skip("there is no bgpdump here (Debian: apt install bgpdump)");
            continue;
        };
        let text = String::from_utf8_lossy(&read.stdout);
        for line in [
            "|127.0.0.42|64501|10.0.0.0/8|64501 4200000001|IGP|192.0.2.7|",
            "|127.0.0.43|64502|10.0.0.0/8|64502 64502 4200000001|IGP|192.0.2.7|",
            "|127.0.0.43|64502|2001:db8:1::/48|64502|IGP|2001:db8::7|",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
    // Now and then it is written by itself.
    soon("a dump", async {
        while !std::fs::File::open(&kept).is_ok_and(|file| facilitation::isp::read_rib(file).is_ok()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let socket = speaker.folder.path().join("admin");
    let ask = |name: &str, value: &str| Request {
        topic: "dump".to_owned(),
        arguments: [(name.to_owned(), value.to_owned())].into(),
    };
    for (name, value, expected) in
        [("file", "rib.mrt", "give the whole path"), ("number", "99", "another dump"), ("number", "x", "takes a file")]
    {
        let error = admin::ask_for(&socket, &ask(name, value)).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    speaker.end().await;
}

/// How old each route of a dump was when it was written, in seconds, by prefix.
fn ages(file: &Path) -> BTreeMap<String, u32> {
    let mut framer = Framer::default();
    framer.push(&std::fs::read(file).unwrap());
    let mut ages = BTreeMap::new();
    while let Some(bytes) = framer.next_record().unwrap() {
        let written = u32::from_be_bytes(bytes[..4].try_into().unwrap());
        if let Record::Rib(record) = Record::decode(bytes).unwrap() {
            let prefix = record.prefix.to_string();
            ages.extend(record.map(|entry| (prefix.clone(), written - entry.unwrap().originated)));
        }
    }
    ages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_says_when_each_route_came() {
    let mut a = Router::new(64501, 44).await;
    let speaker = Speaker::start(&a.table("import = \"all\""));
    a.establish().await;
    a.ends().await;
    let told = || route(&["10.0.0.0/8"], &[64501], &[]);
    a.tell(told()).await;
    let old = |shown: &Value| shown["routes"][0]["for_s"].as_u64().is_some_and(|age| age >= 2);
    speaker.show_until("look-up 10.0.0.1", old).await;
    // Said again it is no younger; another is.
    a.tell(told()).await;
    a.tell(route(&["11.0.0.0/8"], &[64501], &[])).await;
    speaker.show_until("rib", |rib| rib["ipv4_prefixes"] == 2).await;
    let (file, socket) = (speaker.folder.path().join("rib.mrt"), speaker.folder.path().join("admin"));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bgp-speaker"));
    command.arg("dump").arg("--socket").arg(&socket).arg("--rib").arg(&file);
    assert!(tokio::task::block_in_place(|| command.status().unwrap()).success());
    let ages = ages(&file);
    assert!(ages["10.0.0.0/8"] >= 2 && ages["11.0.0.0/8"] < ages["10.0.0.0/8"], "{ages:?}");
    speaker.end().await;
}
