//! Views that publish what many people have in common, over the events of a file: as if nothing more came behind them.

use std::sync::Arc;

use crate::hold::{Fate, Holding, Origin, Room, RowsError, Unfit};
use crate::policy::Plan;
use crate::rewrite::Rewritten;

/// What such views hold; the others hold nothing.
pub struct Many {
    views: Vec<Option<(Holding, Outcome)>>,
    now_ms: i64,
}

/// What became of it until now.
#[derive(Default, Clone, Copy)]
pub struct Outcome {
    pub published: u64,
    pub suppressed: u64,
}

impl Many {
    pub fn new(plan: &Arc<Plan>, now_ms: i64) -> Result<Many, Unfit> {
        let origin = Origin { group: String::new(), topic: String::new(), partition: 0 };
        let view = |view: &crate::policy::ViewPlan| {
            let holding = view
                .holds
                .as_ref()
                .map(|plan| Holding::new(plan, &origin, &Room::default()))
                .transpose();
            holding.map(|holding| holding.map(|holding| (holding, Outcome::default())))
        };
        Ok(Many { views: plan.views.iter().map(view).collect::<Result<_, _>>()?, now_ms })
    }

    /// Takes what the views hold of an event.
    pub fn take(&mut self, out: &Rewritten<'_>) -> Result<(), RowsError> {
        for (number, view) in self.views.iter_mut().enumerate() {
            if let (Some((holding, _)), Some((_, arrival))) = (view, out.held(number)) {
                holding.arrive(arrival, self.now_ms)?;
            }
        }
        Ok(())
    }

    /// Gives what a view publishes by now; with `all`, as if nothing more came.
    pub fn published<E: From<RowsError>>(
        &mut self,
        view: usize,
        all: bool,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Option<Outcome>, E> {
        let Some(Some((holding, outcome))) = self.views.get_mut(view) else { return Ok(None) };
        let mut more = true;
        while more {
            more = all && holding.finish();
            holding.settle(|fate| {
                let record = match &fate {
                    Fate::Released { record, .. } | Fate::Figures(record) => Some(record),
                    Fate::Window(_, record) => record.as_ref(),
                    Fate::Suppressed => {
                        outcome.suppressed += 1;
                        None
                    }
                };
                let Some(value) = record.and_then(|record| record.value()) else { return Ok(()) };
                outcome.published += 1;
                each(value)
            })?;
        }
        Ok(Some(*outcome))
    }
}
