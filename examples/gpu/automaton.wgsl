// A cyclic cellular automaton: a cell becomes the next of its states as soon as a neighbour is there already. From noise, spirals grow.
// Integers only, so every sound device gives the same picture, bit for bit.

const SIDE = 256u;
const STATES = 14u;

@group(0) @binding(0) var<uniform> seed: vec4u;
@group(0) @binding(1) var<storage, read_write> here: array<u32>;
@group(0) @binding(2) var<storage, read_write> there: array<u32>;
@group(0) @binding(3) var<storage, read_write> picture: array<u32>;

fn pcg(x: u32) -> u32 {
    let state = x * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

fn place(x: u32, y: u32) -> u32 {
    return (y % SIDE) * SIDE + x % SIDE;
}

@compute @workgroup_size(16, 16)
fn begin(@builtin(global_invocation_id) id: vec3u) {
    here[place(id.x, id.y)] = pcg(place(id.x, id.y) ^ pcg(seed.x)) % STATES;
}

@compute @workgroup_size(16, 16)
fn forth(@builtin(global_invocation_id) id: vec3u) {
    let own = here[place(id.x, id.y)];
    let next = (own + 1u) % STATES;
    let sides = array<u32, 4>(
        here[place(id.x + 1u, id.y)], here[place(id.x + SIDE - 1u, id.y)], here[place(id.x, id.y + 1u)], here[place(id.x, id.y + SIDE - 1u)]);
    var grows = false;
    for (var side = 0u; side < 4u; side++) {
        grows = grows || sides[side] == next;
    }
    there[place(id.x, id.y)] = select(own, next, grows);
}

@compute @workgroup_size(16, 16)
fn back(@builtin(global_invocation_id) id: vec3u) {
    here[place(id.x, id.y)] = there[place(id.x, id.y)];
}

// One byte for each cell.
@compute @workgroup_size(64)
fn paint(@builtin(global_invocation_id) id: vec3u) {
    var word = 0u;
    for (var cell = 0u; cell < 4u; cell++) {
        word |= here[id.x * 4u + cell] << (cell * 8u);
    }
    picture[id.x] = word;
}
