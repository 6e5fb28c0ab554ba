// Node's own "hello", as the documentation of node:http has it; the answer has a Content-Length.
import { createServer } from 'node:http';

const server = createServer((request, response) => {
  response.setHeader('Content-Type', 'text/plain');
  response.end('Hello World!\n');
});

// As long as access keeps its clients; the default of 5 s would close idle connections meanwhile.
server.keepAliveTimeout = 120_000;
server.listen({ host: '127.0.0.1', port: Number(process.env.PORT), backlog: 4096 });
