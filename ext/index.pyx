"""Who holds what: 64-bit fingerprints to small sets of node numbers, for look-ups in well under a microsecond.

Source: open addressing with linear probing and backward-shift deletion, Knuth, The Art of Computer Programming,
volume 3, section 6.4, algorithms L and R; a hash scaled to the table's size by its upper half: Lemire, "Fast random
integer generation in an interval".
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

cdef extern from *:
    """
    /* A slot of the table for a fingerprint: mixed with a secret, so that nobody can choose keys that collide. */
    static inline uint64_t fm_slot(uint64_t key, uint64_t seed, uint64_t capacity) {
        uint64_t x = key ^ seed;
        x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ULL;
        x = (x ^ (x >> 32)) * (seed | 1);
        x ^= x >> 29;
        return (uint64_t)(((unsigned __int128)x * capacity) >> 64);
    }
    """
    uint64_t fm_slot(uint64_t key, uint64_t seed, uint64_t capacity) noexcept nogil

cdef enum:
    LEAST_SLOTS = 64
    CLASSES = 14              # blocks of 4, 8, ... 32768 numbers; the first of them counts the others
    MOST_NODES = 32766
    BLOCK = 0x80000000        # a reference with this bit names a block, else it is a node number + 1; 0: empty slot
    NUMBER_BITS = 27          # of a block's number; four bits above it are its class

cdef enum State:
    FREE = 0
    HIDDEN = 1
    SHOWN = 2
    CLOSED = 3
    SWEPT = 4                 # closed before the sweep that is under way began: free when it ends


cdef class Index:
    """The table.

    Invariants  Every reference in ``refs`` that is not 0 names at least one node, each once.
                A node's number is given out again only after a whole sweep has taken its entries away.
                ``keys``, ``refs``, the pools and ``states`` are owned, and freed in ``__dealloc__``.
    """

    def __cinit__(self, uint64_t seed):
        self.seed = seed
        self.capacity = LEAST_SLOTS
        self.keys = <uint64_t *>calloc(LEAST_SLOTS, sizeof(uint64_t))
        self.refs = <uint32_t *>calloc(LEAST_SLOTS, sizeof(uint32_t))
        self.states = <uint8_t *>calloc(MOST_NODES + 1, 1)
        if self.keys == NULL or self.refs == NULL or self.states == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.keys)
        free(self.refs)
        free(self.states)
        for size in range(CLASSES + 1):
            free(self.pools[size].blocks)

    def open(self):
        """A number for one more node, hidden at first. Raises OverflowError when there are 32,766 already."""
        cdef uint32_t node
        for node in range(self.vacant, <uint32_t>MOST_NODES):
            if self.states[node] == FREE:
                self.states[node] = HIDDEN
                self.vacant = node + 1
                self.highest = max(self.highest, node + 1)
                return node
        raise OverflowError("no more nodes")

    def show(self, uint32_t node):
        """Let look-ups see this node."""
        self.expect(node)
        self.states[node] = SHOWN

    def close(self, uint32_t node):
        """Hide this node at once and for ever; :meth:`sweep` takes its entries away."""
        self.expect(node)
        self.states[node] = CLOSED
        self.closed += 1

    def add(self, uint32_t node, bytes keys not None):
        """This node holds these keys, each 8 bytes, little-endian; those that it holds already are passed over."""
        cdef Py_ssize_t at, size = PyBytes_GET_SIZE(keys)
        cdef uint64_t key
        cdef const char *data = PyBytes_AS_STRING(keys)
        self.expect(node)
        if size % 8:
            raise ValueError("keys are 8 bytes each")
        for at in range(0, size, 8):
            memcpy(&key, data + at, 8)
            self.put(key, node)

    def drop(self, uint32_t node, bytes keys not None):
        """This node does not hold these keys any more; those that it did not hold are passed over."""
        cdef Py_ssize_t at, size = PyBytes_GET_SIZE(keys)
        cdef uint64_t key, slot
        cdef const char *data = PyBytes_AS_STRING(keys)
        self.expect(node)
        if size % 8:
            raise ValueError("keys are 8 bytes each")
        for at in range(0, size, 8):
            memcpy(&key, data + at, 8)
            slot = self.seek(key)
            if self.refs[slot]:
                self.take(slot, node)

    def find(self, uint64_t key):
        """The numbers of the nodes that hold this key and are shown, in no order."""
        cdef uint32_t ref = self.refs[self.seek(key)]
        cdef uint16_t *block
        cdef uint32_t n
        cdef list found = []
        if ref & BLOCK:
            block = self.block(ref)
            for n in range(1, block[0] + 1):
                if self.states[block[n]] == SHOWN:
                    found.append(block[n])
        elif ref and self.states[ref - 1] == SHOWN:
            found.append(ref - 1)
        return found

    def sweep(self, uint64_t slots):
        """Look at that many slots for entries of closed nodes and take them away; whether there is more to do."""
        cdef uint32_t node
        if not self.sweeping:
            if not self.closed:
                return False
            self.begin_sweep()
        while slots and self.cursor < self.capacity:
            slots -= 1
            if not self.clean(self.cursor):
                self.cursor += 1
        if self.cursor >= self.capacity:
            self.sweeping = False
            for node in range(self.highest):
                if self.states[node] == SWEPT:
                    self.states[node] = FREE
                    self.vacant = min(self.vacant, node)
        return self.sweeping or self.closed > 0

    @property
    def memory(self):
        """Bytes that the table and its blocks take."""
        cdef uint64_t total = self.capacity * 12 + MOST_NODES + 1
        for size in range(1, CLASSES + 1):
            total += self.pools[size].room * (4 << size)
        return total

    def __len__(self):
        return self.used

    # ---- slots

    cdef int expect(self, uint32_t node) except -1:
        if node >= self.highest or self.states[node] not in (HIDDEN, SHOWN):
            raise ValueError("no such node")
        return 0

    cdef uint64_t seek(self, uint64_t key) noexcept nogil:
        """The slot that has this key, or the empty one where it would be."""
        cdef uint64_t slot = fm_slot(key, self.seed, self.capacity)
        while self.refs[slot] and self.keys[slot] != key:
            slot += 1
            if slot == self.capacity:
                slot = 0
        return slot

    cdef int put(self, uint64_t key, uint32_t node) except -1:
        cdef uint64_t slot = self.seek(key)
        if self.refs[slot]:
            self.refs[slot] = self.join(self.refs[slot], node)
            return 0
        if (self.used + 1) * 5 > self.capacity * 4:
            self.resize(self.capacity + self.capacity // 2)
            slot = self.seek(key)
        self.keys[slot] = key
        self.refs[slot] = node + 1
        self.used += 1
        self.entries += 1
        return 0

    cdef int take(self, uint64_t slot, uint32_t node) except -1:
        """Take one node out of a slot that is not empty."""
        cdef uint32_t ref = self.refs[slot]
        cdef uint16_t *block
        cdef uint32_t n
        if not ref & BLOCK:
            if ref == node + 1:
                self.entries -= 1
                self.vacate(slot)
            return 0
        block = self.block(ref)
        for n in range(1, block[0] + 1):
            if block[n] == node:
                block[n] = block[block[0]]
                block[0] -= 1
                self.entries -= 1
                break
        self.refs[slot] = self.shrink(ref)
        return 0

    cdef void vacate(self, uint64_t hole) noexcept nogil:
        """Empty a slot and close the gap in its run."""
        cdef uint64_t slot = hole, home
        self.used -= 1
        if hole < self.cursor:
            self.cursor = hole    # what moves to before the cursor would escape the sweep
        while True:
            slot += 1
            if slot == self.capacity:
                slot = 0
            if not self.refs[slot]:
                break
            home = fm_slot(self.keys[slot], self.seed, self.capacity)
            # may the entry of ``slot`` move to ``hole``? not if its home lies cyclically in (hole, slot]
            if (hole < home <= slot) if hole <= slot else (home > hole or home <= slot):
                continue
            self.keys[hole] = self.keys[slot]
            self.refs[hole] = self.refs[slot]
            hole = slot
        self.refs[hole] = 0

    cdef int resize(self, uint64_t capacity) except -1:
        cdef uint64_t *old_keys = self.keys
        cdef uint32_t *old_refs = self.refs
        cdef uint64_t *keys = <uint64_t *>calloc(capacity, sizeof(uint64_t))
        cdef uint32_t *refs = <uint32_t *>calloc(capacity, sizeof(uint32_t))
        cdef uint64_t old_capacity = self.capacity, old, slot
        if keys == NULL or refs == NULL:
            free(keys)
            free(refs)
            raise MemoryError
        self.keys, self.refs, self.capacity = keys, refs, capacity
        for old in range(old_capacity):
            if old_refs[old]:
                slot = self.seek(old_keys[old])
                keys[slot] = old_keys[old]
                refs[slot] = old_refs[old]
        free(old_keys)
        free(old_refs)
        self.cursor = 0
        return 0

    # ---- sweeping

    cdef void begin_sweep(self) noexcept:
        cdef uint32_t node
        for node in range(self.highest):
            if self.states[node] == CLOSED:
                self.states[node] = SWEPT
        self.closed = 0
        self.cursor = 0
        self.sweeping = True

    cdef bint clean(self, uint64_t slot) except -1:
        """Take nodes that are swept out of a slot; whether another entry may have moved into it."""
        cdef uint32_t ref = self.refs[slot]
        cdef uint16_t *block
        cdef uint32_t n
        if not ref:
            return False
        if not ref & BLOCK:
            if self.states[ref - 1] == SWEPT:
                self.entries -= 1
                self.vacate(slot)
                return True
            return False
        block = self.block(ref)
        n = 1
        while n <= block[0]:
            if self.states[block[n]] == SWEPT:
                block[n] = block[block[0]]
                block[0] -= 1
                self.entries -= 1
            else:
                n += 1
        if block[0] == 0:
            self.release(ref)
            self.vacate(slot)
            return True
        self.refs[slot] = self.shrink(ref)
        return False

    # ---- blocks

    cdef uint16_t *block(self, uint32_t ref) noexcept nogil:
        cdef uint32_t size = (ref >> NUMBER_BITS) & 15
        return self.pools[size].blocks + ((<uint64_t>(ref & ((1 << NUMBER_BITS) - 1))) << (size + 1))

    cdef uint32_t claim(self, uint32_t size) except 0:
        """A block of class ``size`` (room for 2 ** (size + 1) - 1 nodes), empty."""
        cdef Pool *pool = &self.pools[size]
        cdef uint16_t *grown
        cdef uint32_t number
        cdef uint64_t room
        if pool.unused:
            number = pool.unused - 1
            memcpy(&pool.unused, pool.blocks + (<uint64_t>number << (size + 1)), 4)
        else:
            if pool.count == pool.room:
                room = pool.room + pool.room // 4 + 4
                grown = <uint16_t *>realloc(pool.blocks, room * (4 << size))
                if grown == NULL or room >= (1 << NUMBER_BITS):
                    raise MemoryError
                pool.blocks, pool.room = grown, room
            number = pool.count
            pool.count += 1
        (pool.blocks + (<uint64_t>number << (size + 1)))[0] = 0
        return BLOCK | (size << NUMBER_BITS) | number

    cdef void release(self, uint32_t ref) noexcept nogil:
        cdef Pool *pool = &self.pools[(ref >> NUMBER_BITS) & 15]
        memcpy(self.block(ref), &pool.unused, 4)
        pool.unused = (ref & ((1 << NUMBER_BITS) - 1)) + 1

    cdef uint32_t join(self, uint32_t ref, uint32_t node) except 0:
        """The reference with one node more."""
        cdef uint32_t size, n, grown
        cdef uint16_t *block
        if not ref & BLOCK:
            if ref == node + 1:
                return ref
            grown = self.claim(1)
            block = self.block(grown)
            block[0], block[1], block[2] = 2, ref - 1, node
            self.entries += 1
            return grown
        block = self.block(ref)
        for n in range(1, block[0] + 1):
            if block[n] == node:
                return ref
        size = (ref >> NUMBER_BITS) & 15
        if block[0] == (2 << size) - 1:
            grown = self.claim(size + 1)
            block = self.block(ref)    # the pool of another class may have moved, this one has not; be plain
            memcpy(self.block(grown), block, (block[0] + 1) * 2)
            self.release(ref)
            ref = grown
            block = self.block(ref)
        block[0] += 1
        block[block[0]] = node
        self.entries += 1
        return ref

    cdef uint32_t shrink(self, uint32_t ref) except 0:
        """The same nodes in the smallest form; the block must not be empty."""
        cdef uint16_t *block = self.block(ref)
        cdef uint32_t size = (ref >> NUMBER_BITS) & 15, only, smaller
        if block[0] == 1:
            only = block[1]
            self.release(ref)
            return only + 1
        if size > 1 and block[0] < (1 << size) // 2:
            smaller = self.claim(size - 1)
            memcpy(self.block(smaller), self.block(ref), (self.block(ref)[0] + 1) * 2)
            self.release(ref)
            return smaller
        return ref
