//! Tables of servers, each made once for as long as somebody uses it: a large one takes milliseconds, and
//! most changes of a configuration leave most services as they were.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use dataplane::lookup::scheduler::maglev::{Size, Table};

/// What a table is made from.
type Key = (Size, Vec<(u64, u16)>);

/// The tables in use, by what they were made from.
#[derive(Debug, Default)]
pub(super) struct Tables(Mutex<BTreeMap<Key, Weak<Table>>>);

impl Tables {
    /// The table for these servers, by their stable keys and weights.
    pub fn of(&self, size: Size, servers: Vec<(u64, u16)>) -> Arc<Table> {
        let key = (size, servers);
        let known = self.lock().get(&key).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let table = Arc::new(Table::new(size, key.1.iter().copied()));
            self.lock().insert(key, Arc::downgrade(&table));
            table
        })
    }

    /// Forgets the tables that nobody uses any more.
    pub fn tidy(&self) {
        self.lock().retain(|_, table| table.strong_count() > 0);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Weak<Table>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_servers_share_a_table_until_nobody_uses_it() {
        let tables = Tables::default();
        let first = tables.of(Size::Least, vec![(1, 10), (2, 10)]);
        assert!(Arc::ptr_eq(&first, &tables.of(Size::Least, vec![(1, 10), (2, 10)])));
        assert!(!Arc::ptr_eq(&first, &tables.of(Size::Least, vec![(1, 10), (2, 20)])));
        assert!(!Arc::ptr_eq(&first, &tables.of(Size::Small, vec![(1, 10), (2, 10)])));
        drop(first);
        tables.tidy();
        assert!(tables.lock().is_empty());
    }
}
