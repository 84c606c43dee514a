//! What policies must agree on among each other: a name, a source topic and a published topic belong to one of them,
//! and nothing that is published is read again.

use std::borrow::Borrow;

use super::model::{Policy, Topics};

impl Topics {
    /// Whether a topic of that name is one of these.
    pub fn claim(&self, topic: &str) -> bool {
        match self {
            Topics::Named(names) => names.iter().any(|name| name == topic),
            // The parser has compiled it once already.
            Topics::Pattern(pattern) => {
                regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(topic))
            }
        }
    }

    /// Whether some topic is known to belong to both. Two patterns can overlap unseen.
    fn overlap(&self, other: &Topics) -> Option<String> {
        match (self, other) {
            (Topics::Named(names), other) | (other, Topics::Named(names)) => {
                names.iter().find(|name| other.claim(name)).cloned()
            }
            (Topics::Pattern(one), Topics::Pattern(two)) => (one == two).then(|| one.clone()),
        }
    }
}

/// All conflicts of `policies`, in words. `reserved` are topics that the worker itself writes, and what for.
pub fn conflicts(policies: &[impl Borrow<Policy>], reserved: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    let mut written: Vec<(&str, String)> =
        reserved.iter().map(|(topic, by)| (*topic, (*by).to_owned())).collect();
    for (number, policy) in policies.iter().map(Borrow::borrow).enumerate() {
        for other in policies.iter().take(number).map(Borrow::borrow) {
            if other.name == policy.name {
                found.push(format!("two policies are called `{}`", policy.name));
            }
            if let Some(topic) = policy.topics.overlap(&other.topics) {
                let (one, two) = (&other.name, &policy.name);
                found.push(format!("the topic {topic} is claimed by `{one}` and `{two}`"));
            }
        }
        for view in &policy.views {
            let by = format!("{}/{}", policy.name, view.name);
            if let Some((topic, other)) = written.iter().find(|(topic, _)| *topic == view.topic) {
                found.push(format!("`{other}` and `{by}` both publish to {topic}"));
            }
            written.push((&view.topic, by));
        }
    }
    for policy in policies.iter().map(Borrow::borrow) {
        for (topic, by) in written.iter().filter(|(topic, _)| policy.topics.claim(topic)) {
            let name = &policy.name;
            found.push(format!("`{name}` reads {topic}, which `{by}` writes: an endless loop"));
        }
    }
    found
}
