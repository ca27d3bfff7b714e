//! The story `bgp-flow`, as `cargo lab` tells it.

use netns_tests::{may_make_namespaces, stories};

#[test]
fn every_router_holds_exactly_our_flow_rules_and_drops_them_with_the_route() -> anyhow::Result<()> {
    if !may_make_namespaces("every_router_holds_exactly_our_flow_rules_and_drops_them_with_the_route") {
        return Ok(());
    }
    stories::build_programs()?;
    let story = stories::find("bgp-flow").expect("there is such a story");
    let evidence = stories::run(story, &format!("bf{}-", std::process::id()))?;
    let broken: Vec<_> = evidence.steps.iter().filter(|step| !step.held).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(evidence.steps.len() > 18, "the story stopped early");
    Ok(())
}
