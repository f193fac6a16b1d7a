// Opens a file by Netron's own parser and prints what it would show, as JSON.
// Arguments: the folder of Netron's sources, and the file.

import * as fs from 'node:fs';
import * as path from 'node:path';
import * as url from 'node:url';

const [folder, file] = process.argv.slice(2);
const load = (name) => import(url.pathToFileURL(path.join(folder, name)));
const base = await load('base.js');
const view = await load('view.js');

// Loads a scheme or a table of operators that lies beside the parsers.
const host = {
    environment: () => null,
    require: (id) => load(`${id}.js`),
    asset: (name) => fs.readFileSync(path.join(folder, name), 'utf-8'),
    error: (error) => { throw error; },
    exception: (error) => { throw error; },
    event: () => {},
};
host.identifier = path.basename(file);
host.stream = new base.BinaryStream(new Uint8Array(fs.readFileSync(file)));
host.entries = new Map();

const service = new view.ModelFactoryService(host);
const model = await service.open(host);
const graph = model.modules[0];
const constants = graph.nodes.flatMap((node) => node.inputs)
    .flatMap((argument) => argument.value)
    .filter((value) => value && value.initializer);
process.stdout.write(JSON.stringify({
    format: model.format,
    description: model.description,
    inputs: graph.inputs.map((input) => input.name),
    outputs: graph.outputs.map((output) => output.name),
    operators: graph.nodes.map((node) => node.type.name),
    constants: constants.map((value) => {
        const tensor = new base.Tensor(value.initializer);
        return { name: value.name, type: String(value.type), values: tensor.value };
    }),
}, (_, value) => typeof value === 'bigint' ? Number(value) : value));
