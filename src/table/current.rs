//! The table that requests currently see.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::RouteTable;

/// The only place where a new table replaces the old one: routes, endpoints and certificates change together.
#[derive(Debug, Default)]
pub struct CurrentTable(ArcSwap<RouteTable>);

impl CurrentTable {
    /// The current table. Do not hold the guard across an await: it keeps an old table alive.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<RouteTable>> {
        self.0.load()
    }

    /// Publishes a table and returns the previous one, for the caller to drop once nobody reads it any more.
    pub fn publish(&self, table: Arc<RouteTable>) -> Arc<RouteTable> {
        self.0.swap(table)
    }
}
