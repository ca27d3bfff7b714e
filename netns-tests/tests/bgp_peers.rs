//! The story `bgp-peers`, as `cargo lab` tells it.

use netns_tests::{may_make_namespaces, stories};

#[test]
fn every_peer_takes_the_private_routes_and_none_passes_them_on() -> anyhow::Result<()> {
    if !may_make_namespaces("every_peer_takes_the_private_routes_and_none_passes_them_on") {
        return Ok(());
    }
    stories::build_programs()?;
    let story = stories::find("bgp-peers").expect("there is such a story");
    let evidence = stories::run(story, &format!("bp{}-", std::process::id()))?;
    let broken: Vec<_> = evidence.steps.iter().filter(|step| !step.held).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(evidence.steps.len() > 250, "the story stopped early");
    Ok(())
}
