//! Figures of several runs, and how they are shown.

use std::collections::BTreeMap;

/// Figures of all runs, by what they are of.
#[derive(Default)]
pub(crate) struct Figures(BTreeMap<(usize, String), Vec<f64>>);

impl Figures {
    pub(crate) fn add(&mut self, what: &str, value: f64) {
        let known = self.0.keys().find(|(_, name)| name == what).cloned();
        let key = known.unwrap_or((self.0.len(), what.to_owned()));
        self.0.entry(key).or_default().push(value);
    }

    fn of(&self, what: &str) -> Option<Vec<f64>> {
        self.0.iter().find(|((_, name), _)| name == what).map(|(_, values)| sort(values.clone()))
    }

    /// Best and median of each. `beside` names the figure that another is compared with; the ratio is that of the medians.
    pub(crate) fn print(&self, beside: impl Fn(&str) -> Option<String>) {
        println!("\n| what | best | median | ratio |\n| --- | --- | --- | --- |");
        for ((_, what), values) in &self.0 {
            let values = sort(values.clone());
            let ratio = beside(what).and_then(|other| {
                let others = self.of(&other)?;
                Some(format!("{:.2} of {other}", values[values.len() / 2] / others[others.len() / 2]))
            });
            let ratio = ratio.unwrap_or_default();
            println!("| {what} | {:.3} | {:.3} | {ratio} |", values[0], values[values.len() / 2]);
        }
        println!();
    }
}

/// The middle one, and the one that a hundredth exceeds.
pub(crate) fn percentiles(values: Vec<f64>) -> (f64, f64) {
    let values = sort(values);
    (values[values.len() / 2], values[values.len() * 99 / 100])
}

/// Least, middle, the one that a hundredth exceeds, and most.
pub(crate) fn spread(values: Vec<f64>) -> String {
    let values = sort(values);
    let at = |percent: usize| values[(values.len() - 1) * percent / 100];
    format!("least {:.2}, p50 {:.2}, p99 {:.2}, most {:.2} ({} times)", at(0), at(50), at(99), at(100), values.len())
}

fn sort(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}
