//! The story `ecash`, as `cargo lab` tells it.

use netns_tests::{may_make_namespaces, stories};

#[test]
fn a_thousand_items_of_cents_are_paid_once_each_and_all_books_agree() -> anyhow::Result<()> {
    if !may_make_namespaces("a_thousand_items_of_cents_are_paid_once_each_and_all_books_agree") {
        return Ok(());
    }
    stories::build_programs()?;
    let story = stories::find("ecash").expect("there is such a story");
    let evidence = stories::run(story, &format!("ec{}-", std::process::id()))?;
    let broken: Vec<_> = evidence.steps.iter().filter(|step| !step.held).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(evidence.steps.len() > 15, "the story stopped early");
    Ok(())
}
