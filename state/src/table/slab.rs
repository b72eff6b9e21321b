//! [`Slab`]: an array in blocks that never move. Growing copies nothing, and an empty block is freed.

/// Items in one block.
const BLOCK_LEN: usize = 256;
/// Items for which the first block has room at first: most shards of a small tracker have no more.
const FIRST_BLOCK_LEN: usize = 4;

/// An array in blocks of [`BLOCK_LEN`] items; only the first block grows by copying.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    blocks: Vec<Vec<T>>,
    // Kept because each announce needs both, without a look at the blocks.
    len: usize,
    heap: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), len: 0, heap: 0 }
    }
}

impl<T> Slab<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Octets on the heap.
    pub(crate) fn heap(&self) -> usize {
        self.heap
    }

    pub(crate) fn get(&self, place: usize) -> Option<&T> {
        self.blocks.get(place / BLOCK_LEN)?.get(place % BLOCK_LEN)
    }

    pub(crate) fn last(&self) -> Option<&T> {
        self.blocks.last()?.last()
    }

    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.blocks.get_mut(place / BLOCK_LEN)?.get_mut(place % BLOCK_LEN)
    }

    pub(crate) fn push(&mut self, item: T) {
        let block = match self.blocks.last_mut() {
            Some(last) if last.len() < BLOCK_LEN => last,
            _ => {
                let room = if self.blocks.is_empty() { FIRST_BLOCK_LEN } else { BLOCK_LEN };
                self.heap += size_of::<Vec<T>>() + room * size_of::<T>();
                self.blocks.push_mut(Vec::with_capacity(room))
            }
        };
        let room = block.capacity();
        block.push(item);
        self.heap += (block.capacity() - room) * size_of::<T>();
        self.len += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let last = self.blocks.last_mut()?;
        let item = last.pop();
        if last.is_empty() {
            self.heap -= size_of::<Vec<T>>() + last.capacity() * size_of::<T>();
            self.blocks.pop();
        }
        self.len -= usize::from(item.is_some());
        item
    }

    /// Removes the item at a place; the last one takes its place.
    pub(crate) fn swap_remove(&mut self, place: usize) -> Option<T> {
        let last = self.pop()?;
        match self.get_mut(place) {
            Some(hole) => Some(std::mem::replace(hole, last)),
            None => Some(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_where_they_were_put_and_all_memory_comes_back() {
        let mut slab = Slab::default();
        (0..1000).for_each(|number: u64| slab.push(number));
        assert!((0..1000).all(|number| slab.get(number) == Some(&(number as u64))));
        assert!((8000..8000 * 5 / 4 + 100).contains(&slab.heap()), "{}", slab.heap());
        assert_eq!((slab.swap_remove(7), slab.get(7), slab.len()), (Some(7), Some(&999), 999));
        assert_eq!(slab.swap_remove(998), Some(998));
        while slab.pop().is_some() {}
        assert_eq!((slab.len(), slab.heap()), (0, 0));
    }
}
