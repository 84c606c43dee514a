//! Who may do what: roles, the views that they read, and the classes that they may reveal. What no role grants is
//! denied.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A view by the names of its policy and its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewName {
    pub policy: String,
    pub view: String,
}

impl std::fmt::Display for ViewName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.policy, self.view)
    }
}

/// What a grant takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Approval {
    /// The role is enough.
    No,
    /// A second person who may reveal the same has to agree.
    Needed,
}

/// One role, complete: nothing is inherited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    pub name: String,
    /// The role that it is a part of: it grants no more than that one.
    pub parent: Option<String>,
    pub views: Vec<ViewName>,
    /// By class and purpose.
    pub reveals: BTreeMap<(String, String), Approval>,
    /// Whether it may have a data subject forgotten, and hold that up.
    pub erase: bool,
    /// Whether it may open quarantined records, which are raw, and send them through again.
    pub quarantine: bool,
    /// Kafka's principals, such as `User:analytics`.
    pub principals: Vec<String>,
}

impl Role {
    pub fn reads(&self, view: &ViewName) -> bool {
        self.views.contains(view)
    }
}

/// `roles.yaml`, and valid: what is unknown or contradicts itself has been refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    pub file: PathBuf,
    /// SHA-256 over the file, in hexadecimal.
    pub digest: String,
    /// What a value may be revealed for.
    pub purposes: Vec<String>,
    pub roles: Vec<Role>,
    /// The roles of users of the operating system, for the command line.
    pub users: BTreeMap<String, Vec<String>>,
}

impl Roles {
    /// Those of `names` that there are.
    pub fn named<'r>(&'r self, names: &'r [String]) -> impl Iterator<Item = &'r Role> {
        self.roles.iter().filter(|role| names.contains(&role.name))
    }

    /// Whether somebody who has the roles `names` may reveal a class of a view; none where that is denied. Where two
    /// roles disagree, the stricter one counts.
    pub fn reveals(
        &self,
        names: &[String],
        view: &ViewName,
        class: &str,
        purpose: &str,
    ) -> Option<Approval> {
        let grant = (class.to_owned(), purpose.to_owned());
        let granting = self.named(names).filter(|role| role.reads(view));
        granting.filter_map(|role| role.reveals.get(&grant)).copied().max()
    }

    pub fn erases(&self, names: &[String]) -> bool {
        self.named(names).any(|role| role.erase)
    }

    pub fn opens_quarantine(&self, names: &[String]) -> bool {
        self.named(names).any(|role| role.quarantine)
    }

    /// What a user of the operating system has.
    pub fn of_user(&self, name: &str) -> Vec<String> {
        self.users.get(name).cloned().unwrap_or_default()
    }
}
