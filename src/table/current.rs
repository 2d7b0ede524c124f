//! The table that requests see now.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::RouteTable;

/// The one place where a new table takes the place of the old: routes, endpoints and certificates change together.
#[derive(Debug, Default)]
pub struct CurrentTable(ArcSwap<RouteTable>);

impl CurrentTable {
    /// The table of this moment. The guard is for a decision, not for an await: whoever holds it keeps an old table
    /// alive.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<RouteTable>> {
        self.0.load()
    }

    /// Publishes a table and gives back the one before, for the caller to drop when nobody reads it any more.
    pub fn publish(&self, table: Arc<RouteTable>) -> Arc<RouteTable> {
        self.0.swap(table)
    }
}
