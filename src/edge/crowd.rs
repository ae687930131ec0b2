//! How many links each gateway has here: one that dials without end must not take the memory of the others. Asked by the
//! acceptor once it knows a dialler's certificate; owns the counts.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Links of one gateway name, all its processes together: eight, those that are being let go, and those of the process
/// that it replaces, several times over.
pub const LINKS_MAX: usize = 64;

/// See the module. Shared by all workers.
#[derive(Debug, Default)]
pub struct Crowd {
    links: Mutex<HashMap<String, usize>>,
}

/// One link's place; free again when dropped.
#[derive(Debug)]
pub struct Place {
    crowd: Arc<Crowd>,
    gateway: String,
}

impl Crowd {
    /// A place for one more link of `gateway`, if it has not [`LINKS_MAX`].
    pub fn enter(self: &Arc<Self>, gateway: &str) -> Option<Place> {
        let mut links = self.links.lock();
        let count = links.entry(gateway.to_owned()).or_default();
        (*count < LINKS_MAX).then(|| {
            *count += 1;
            Place { crowd: self.clone(), gateway: gateway.to_owned() }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut links = self.crowd.links.lock();
        if let Some(count) = links.get_mut(&self.gateway) {
            *count -= 1;
            if *count == 0 {
                links.remove(&self.gateway);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_with_too_many_links_gets_no_more_and_others_do() {
        let crowd = Arc::new(Crowd::default());
        let mut places: Vec<_> = (0..LINKS_MAX).map(|_| crowd.enter("gw-1").unwrap()).collect();
        assert!(crowd.enter("gw-1").is_none() && crowd.enter("gw-2").is_some());
        places.pop();
        assert!(crowd.enter("gw-1").is_some());
        drop(places);
        assert!(crowd.links.lock().is_empty(), "who is gone leaves nothing");
    }
}
