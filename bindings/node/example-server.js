// A shop that remembers orders: POST /orders adds one, GET /orders lists them.
import { createServer } from 'node:http';

const orders = [];

createServer((request, response) => {
  if (request.method === 'POST') orders.push(new URL(request.url, 'http://shop').searchParams.get('what'));
  response.end(JSON.stringify(orders));
}).listen(process.argv[2]);
