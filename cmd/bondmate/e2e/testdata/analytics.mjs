// Runs SQL blocks, one after the other, in one DuckDB in memory, in the folder it is started
// in. Reads [{name, sql}] from stdin; prints {name: rows of the block's last statement}.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const { DuckDBInstance } = createRequire(process.env.MODULES + '/')('@duckdb/node-api');
const instance = await DuckDBInstance.create(':memory:');
const connection = await instance.connect();
const out = {};
for (const { name, sql } of JSON.parse(readFileSync(0, 'utf8'))) {
  try {
    const statements = await connection.extractStatements(sql);
    for (let i = 0; i < statements.count; i++) {
      const prepared = await statements.prepare(i);
      out[name] = (await prepared.runAndReadAll()).getRowObjectsJson();
    }
  } catch (error) {
    console.error(`${name}: ${error.message}`);
    process.exit(1);
  }
}
console.log(JSON.stringify(out));
