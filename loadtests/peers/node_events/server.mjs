// Server-sent events on node:http as its documentation has them: a response that is not ended, and a
// write to each. POST /tell sends its body to all.
import { createServer } from 'node:http';

const listeners = new Set();

const server = createServer((request, response) => {
  if (request.method === 'POST') {
    const parts = [];
    request.on('data', (part) => parts.push(part));
    request.on('end', () => {
      const message = `event: product\ndata: ${Buffer.concat(parts)}\n\n`;
      for (const listener of listeners) listener.write(message);
      response.end('told\n');
    });
    return;
  }
  if (!request.url.startsWith('/live')) {
    response.setHeader('Content-Type', 'text/plain');
    response.end('Hello World!\n');
    return;
  }
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
  response.write('retry: 5000\n\n');
  listeners.add(response);
  response.on('close', () => listeners.delete(response));
});

setInterval(() => {
  for (const listener of listeners) listener.write(':\n\n');
}, 15_000).unref();

server.listen({ host: '127.0.0.1', port: Number(process.env.PORT), backlog: 4096 });
