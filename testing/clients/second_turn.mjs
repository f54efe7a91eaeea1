// A second turn through openai-node: whole, streamed and parsed messages go back as they are.
import assert from "node:assert";
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.BRAID_URL,
  apiKey: process.env.BRAID_KEY,
  maxRetries: 0,
});
const wish = { model: process.env.BRAID_MODEL, temperature: 0, max_tokens: 48 };
const asked = [{ role: "user", content: "Name a colour." }];
const again = { role: "user", content: "Another one?" };

async function secondTurn(message) {
  const answer = await client.chat.completions.create({ ...wish, messages: [...asked, message, again] });
  assert(answer.usage.completion_tokens > 0);
}

const whole = await client.chat.completions.create({ ...wish, messages: asked });
await secondTurn(whole.choices[0].message);

const runner = client.chat.completions.stream({
  ...wish,
  max_tokens: 512,
  messages: asked,
  stream_options: { include_usage: true },
});
const final = await runner.finalChatCompletion();
assert(final.usage.completion_tokens > 0);
await secondTurn(final.choices[0].message);

const parsed = await client.chat.completions.parse({
  ...wish,
  messages: asked,
  response_format: {
    type: "json_schema",
    json_schema: {
      name: "person",
      strict: true,
      schema: {
        type: "object",
        properties: { name: { type: "string", maxLength: 12 }, age: { type: "integer" } },
        required: ["name", "age"],
        additionalProperties: false,
      },
    },
  },
});
assert(Number.isInteger(JSON.parse(parsed.choices[0].message.content).age));
await secondTurn(parsed.choices[0].message);
