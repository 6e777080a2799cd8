export default () => ["This is about"];
