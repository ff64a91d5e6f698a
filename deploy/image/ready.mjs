/**
 * The health check of the image: asks the private port of this container whether the service is ready. Ends with 0, or with 1 and the
 * reasons, which `docker inspect` shows.
 */
const port = process.env.METRICS_PORT ?? '9090';
try {
  const answer = await fetch(`http://127.0.0.1:${port}/ready`, {
    signal: AbortSignal.timeout(4_000),
  });
  if (!answer.ok) {
    process.stdout.write(`${await answer.text()}\n`);
    process.exitCode = 1;
  }
} catch (error) {
  process.stdout.write(`port ${port} does not answer: ${error.cause?.code ?? error.message}\n`);
  process.exitCode = 1;
}
