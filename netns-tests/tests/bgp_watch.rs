//! The story `bgp-watch`, as `cargo lab` tells it.

use netns_tests::{may_make_namespaces, stories};

#[test]
fn a_leak_is_seen_withdrawn_and_acknowledged() -> anyhow::Result<()> {
    if !may_make_namespaces("a_leak_is_seen_withdrawn_and_acknowledged") {
        return Ok(());
    }
    stories::build_programs()?;
    let story = stories::find("bgp-watch").expect("there is such a story");
    let evidence = stories::run(story, &format!("bw{}-", std::process::id()))?;
    let broken: Vec<_> = evidence.steps.iter().filter(|step| !step.held).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(evidence.steps.len() > 10, "the story stopped early");
    Ok(())
}
