// Node's own "hello", as the documentation of node:http has it. The answers have a Content-Length,
// without which Node keeps no connection of HTTP/1.0, which is what ab speaks.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

const hello = Buffer.from('Hello World!\n');
const page = process.env.PAGE ? readFileSync(process.env.PAGE) : hello;

const server = createServer((request, response) => {
  const [kind, body] = request.url === '/page' ? ['application/json', page] : ['text/plain', hello];
  response.setHeader('Content-Type', kind);
  response.setHeader('Content-Length', body.length);
  response.end(body);
});

// As long as access keeps its clients; the default of 5 s would close idle connections meanwhile.
server.keepAliveTimeout = 120_000;
server.listen({ host: '127.0.0.1', port: Number(process.env.PORT), backlog: 4096 });
