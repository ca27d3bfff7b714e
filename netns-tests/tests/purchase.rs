//! The story `purchase`, as `cargo lab` tells it.

use netns_tests::{may_make_namespaces, stories};

#[test]
fn a_purchase_goes_all_the_way_and_nothing_leaks() -> anyhow::Result<()> {
    if !may_make_namespaces("a_purchase_goes_all_the_way_and_nothing_leaks") {
        return Ok(());
    }
    stories::build_programs()?;
    let story = stories::find("purchase").expect("there is such a story");
    let evidence = stories::run(story, &format!("pu{}-", std::process::id()))?;
    let broken: Vec<_> = evidence.steps.iter().filter(|step| !step.held).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(evidence.steps.len() > 40, "the story stopped early");
    Ok(())
}
