//! Routes of the last build, reused if nothing has changed.

use std::{collections::HashMap, sync::Arc};

use super::draft::Draft;
use crate::{
    api::RouteObject,
    table::{ObjectName, Rule},
};

/// The draft and rules of each route. An unchanged object, recognised by its pointer, is not read again; rules that
/// have not changed remain the same objects, which makes comparing two tables fast.
#[derive(Debug, Default)]
pub(super) struct Routes {
    before: HashMap<ObjectName, KnownRoute>,
    now: HashMap<ObjectName, KnownRoute>,
}

#[derive(Debug)]
struct KnownRoute {
    object: Arc<RouteObject>,
    draft: Arc<Draft>,
    rules: Arc<[Arc<Rule>]>,
}

impl Routes {
    /// The draft of a route.
    pub(super) fn draft(&mut self, object: &Arc<RouteObject>) -> Arc<Draft> {
        let name = super::object_name(&object.metadata);
        let known = match self.before.remove(&name) {
            Some(known) if Arc::ptr_eq(&known.object, object) => known,
            before => KnownRoute {
                object: object.clone(),
                draft: Arc::new(Draft::of(object)),
                rules: before.map(|known| known.rules).unwrap_or_default(),
            },
        };
        let draft = known.draft.clone();
        self.now.insert(name, known);
        draft
    }

    /// The rules of a route: the objects of the last build if they are equal.
    pub(super) fn reuse(&mut self, draft: &Draft, rules: Vec<Rule>) -> Arc<[Arc<Rule>]> {
        let Some(known) = self.now.get_mut(&draft.name) else { return rules.into_iter().map(Arc::new).collect() };
        let same =
            known.rules.len() == rules.len() && known.rules.iter().zip(&rules).all(|(one, other)| **one == *other);
        if !same {
            known.rules = rules.into_iter().map(Arc::new).collect();
        }
        known.rules.clone()
    }

    /// Ends a build: forgets routes that were not drafted during it.
    pub(super) fn end_build(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }
}
